"""Broken on purpose: every mutant of the code must be caught by the tests that are said to do so.

Each mutant is put into a copy of the tree, where only the named tests run. Run them with
``pytest -m slow tests/mutants`` (20 minutes); one of them with ``-k`` and its name.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("ntdh_bench", "datamodules", "models", "configs", "tests")
TIMEOUT = 600  # seconds for the tests of one mutant
PASSED, FAILED = 0, 1  # of pytest; others mean that tests could not run


class Mutant(NamedTuple):
    """A fault: what stands once in a file, what stands there instead, and which tests see it."""

    name: str
    file: str
    old: str
    new: str
    tests: str


PAIRS, MOTION_TESTS = "datamodules/pairs/", "tests/datamodules/pairs/test_motion.py"
PUB_TESTS = "tests/datamodules/pairs/test_published.py"
DIVERGENCE, D_TESTS = "ntdh_bench/divergence.py", "tests/ntdh_bench/test_divergence.py"
LOSSES, L_TESTS = (
    "ntdh_bench/distillers/functional.py",
    "tests/ntdh_bench/distillers/test_functional.py",
)
LOGITS, LOGITS_TESTS = (
    "ntdh_bench/distillers/logits.py",
    "tests/ntdh_bench/distillers/test_logits.py",
)
PREDICTIONS = "ntdh_bench/distillers/predictions.py"
RELATIONS, R_TESTS = (
    "ntdh_bench/distillers/relational.py",
    "tests/ntdh_bench/distillers/test_relational.py",
)
DISTILLER, DISTILLER_TESTS = (
    "ntdh_bench/distillers/base.py",
    "tests/ntdh_bench/distillers/test_stacks.py",
)
MAPS_TESTS = "tests/ntdh_bench/distillers/test_maps.py"
REVIEW_TESTS = "tests/ntdh_bench/distillers/test_reviewkd.py"
SIMKD_TESTS = "tests/ntdh_bench/distillers/test_simkd.py"
CRD_TESTS = "tests/ntdh_bench/distillers/test_crd.py"
CONTRASTIVE = "ntdh_bench/distillers/contrastive.py"
CONTRASTIVE_TESTS = "tests/ntdh_bench/distillers/test_contrastive.py"
PERMUTED, S_TESTS = "ntdh_bench/masks/permuted.py", "tests/ntdh_bench/masks/test_saliency.py"
FEATURE_MASK, F_TESTS = (
    "ntdh_bench/masks/feature_mask.py",
    "tests/ntdh_bench/masks/test_feature_mask.py",
)
MUTUAL, MUTUAL_TESTS = (
    "ntdh_bench/distillers/mutual.py",
    "tests/ntdh_bench/distillers/test_mutual.py",
)
NONTARGET, TARGET = "ntdh_bench/interventions/nontarget.py", "ntdh_bench/interventions/target.py"
I_TESTS = "tests/ntdh_bench/interventions/test_interventions.py"
TAU_TESTS = "tests/ntdh_bench/test_rank_correlation.py"
SAMPLE_TESTS = "tests/ntdh_bench/masks/test_sample_mask.py"
MODULE, M_TESTS = "models/distillation.py", "tests/models/test_distillation.py"
ESTIMATE = "ntdh_bench/sweep/estimate.py"
ESTIMATE_TESTS = "tests/ntdh_bench/sweep/test_estimate.py"
STACK, STACK_TESTS = "models/stacks.py", "tests/models/test_stacks.py"
DISTILLATION_STACK = "models/distillation_stack.py"
SEGMENTATION, SEG_TESTS = "ntdh_bench/segmentation.py", "tests/ntdh_bench/test_segmentation.py"
FUSED, FUSED_TESTS = "models/losses.py", "tests/models/test_losses.py"
PROJECTION, P_TESTS = (
    "datamodules/semantickitti/projection.py",
    "tests/datamodules/semantickitti/test_projection.py",
)
VOXELS, V_TESTS = "datamodules/nyuv2/voxels.py", "tests/datamodules/nyuv2/test_voxels.py"
SEEDING, SEED_TESTS = "ntdh_bench/seeding.py", "tests/ntdh_bench/test_seeding.py"
STATISTICS, STAT_TESTS = (
    "ntdh_bench/report/statistics.py",
    "tests/ntdh_bench/report/test_statistics.py",
)
RECORDS, REC_TESTS = "ntdh_bench/records/", "tests/ntdh_bench/records/test_records.py"
PARSE_TESTS = "tests/ntdh_bench/parsing/test_parsing_again.py"
TRANSFER, TRANSFER_TESTS = (
    "ntdh_bench/sweep/transfer.py",
    "tests/ntdh_bench/sweep/test_transfer.py",
)
PLAN_TESTS = "tests/ntdh_bench/stacks/test_plan.py"
JOB_TESTS = "tests/ntdh_bench/sweep/test_stacks.py"
HYPOTHESIS, H_TESTS = (
    "ntdh_bench/report/hypothesis.py",
    "tests/ntdh_bench/report/test_hypothesis.py",
)
CLAIMS, CLAIM_TESTS = "ntdh_bench/report/claims.py", "tests/ntdh_bench/report/test_claims.py"
PAIRING, PAIR_TESTS = "ntdh_bench/report/pairing.py", "tests/ntdh_bench/report/test_pairing.py"
DEPENDENCE_TESTS = "tests/ntdh_bench/test_dependence.py"
BOTH_TESTS = "tests/models/test_multimodal.py"
RANKS, RANK_TESTS = "ntdh_bench/report/ranks.py", "tests/ntdh_bench/report/test_ranks.py"
OVERVIEW, OVER_TESTS = "ntdh_bench/report/overview.py", "tests/ntdh_bench/report/test_overview.py"

STUDY, STUDY_TESTS = "ntdh_bench/study/", "tests/ntdh_bench/study/test_claims.py"
MUTANTS = (
    # -- the study
    Mutant("study sets that fail a gate", f"{STUDY}results.py",
           "if gate.name in COUNTING)", "if gate.name in ())", STUDY_TESTS),
    Mutant("study verdicts of four sets", f"{STUDY}verdicts.py",
           "if n >= MIN_SETS:", "if n >= 4:", STUDY_TESTS),
    Mutant("study sets averaged with what does not count", f"{STUDY}sets.py",
           "in counted or settings if", "in settings if", STUDY_TESTS),
    Mutant("study slopes in the dose, not the divergence", f"{STUDY}doses.py",
           "slopes(self.gain, divergence.mean(axis=1))", "slopes(self.gain, self.doses)",
           STUDY_TESTS),
    Mutant("study divergences that are extrapolated", f"{STUDY}doses.py",
           "min(abs(change.mean()), abs(other.mean()))",
           "max(abs(change.mean()), abs(other.mean()))", STUDY_TESTS),
    Mutant("study masks that damage the teacher", f"{STUDY}masks.py",
           "if sound.issuperset(pair)] or pairs", "if pair] or pairs", STUDY_TESTS),
    Mutant("study spread that noise alone has", f"{STUDY}masks.py",
           "np.argsort(order, axis=0)", "np.argsort(values, axis=0)", STUDY_TESTS),
    Mutant("study masks compared by what their seeds share", "ntdh_bench/report/effects.py",
           "values - over_cells - over_seeds +", "values - over_cells - 0 * over_seeds +",
           STUDY_TESTS),
    Mutant("study guide of masked teachers", f"{STUDY}guide.py",
           "if untouched(row) and _is_main(row)]", "if _is_main(row)]",
           "tests/ntdh_bench/study/test_guide.py"),
    # -- interventions
    Mutant("shuffled with the target", DIVERGENCE,
           "columns + (columns >= target[..., None])", "columns + (columns > target[..., None])",
           I_TESTS),
    Mutant("uniform over all classes", NONTARGET,
           "-math.log(others))", "-math.log(others + 1))", I_TESTS),
    Mutant("class means of log-probabilities", NONTARGET,
           "shares = nontarget_log_probs(logits.movedim(1, -1)[counted], labels).double().exp()",
           "shares = -nontarget_log_probs(logits.movedim(1, -1)[counted], labels).double()",
           I_TESTS),
    Mutant("a lead may change its sign", TARGET,
           "shift = torch.copysign(sizes, lead) - lead", "shift = sizes - lead", I_TESTS),
    Mutant("leads exchanged between right and wrong", TARGET,
           "for group in (leads > 0, leads <= 0):", "for group in (leads > -torch.inf,):", I_TESTS),
    Mutant("drawn by batch position", "ntdh_bench/interventions/base.py",
           'name, 0, batch["index"], (*spatial, width))',
           'name, 0, torch.arange(len(batch["index"])), (*spatial, width))', I_TESTS),
    Mutant("all splits drawn alike", "ntdh_bench/interventions/base.py",
           'f"{type(self).__name__}:{purpose}:{split}"', 'f"{type(self).__name__}:{purpose}"',
           I_TESTS),
    Mutant("a stack takes another stream's reference rows", "ntdh_bench/stacks/teachers.py",
           "one_of(batch, teacher.stream)", "one_of(batch, 0)",
           "tests/ntdh_bench/runs/test_interventions.py"),
    Mutant("the control's teacher is untouched", "ntdh_bench/records/identity.py",
           "between = [mask, intervention] if intervention else mask", "between = mask",
           "tests/ntdh_bench/records/test_cells.py"),
    # -- divergences
    Mutant("target's column kept", DIVERGENCE,
           "columns + (columns >= target[..., None])", "columns + (columns > target[..., None])",
           D_TESTS),
    Mutant("margin with the wrong sign", DIVERGENCE,
           "F.logsigmoid(margin), F.logsigmoid(-margin)",
           "F.logsigmoid(-margin), F.logsigmoid(margin)", D_TESTS),
    Mutant("KL weighted by the student", DIVERGENCE,
           "return self._p * self._gap", "return self._log_q.exp() * self._gap", D_TESTS),
    Mutant("JSD against the teacher alone", DIVERGENCE,
           "return (p_term + self._log_q.exp() * (LN2 + F.logsigmoid(-self._gap))) / 2",
           "return p_term", D_TESTS),
    Mutant("two-way TCKL without its second term", DIVERGENCE,
           "_bounded(value + self._rest.kl(), math.inf) if binary", "value if binary",
           D_TESTS),
    Mutant("ignored pixels count", DIVERGENCE,
           "kept = (target != ignore_index)", "kept = (target == target)", D_TESTS),
    # -- the seven distillers
    Mutant("KD without T squared", LOGITS,
           "return divergence * beside(temperature**2, divergence)", "return divergence", L_TESTS),
    Mutant("KD of sharpened logits", LOGITS,
           "teacher = torch.log_softmax(teacher_logits / divisor, dim=-1)\n    terms",
           "teacher = torch.log_softmax(teacher_logits * divisor, dim=-1)\n    terms", L_TESTS),
    Mutant("DKD with its weights swapped", LOGITS,
           "beside(alpha, target_part) * target_part + beside(beta, other_part) * other_part",
           "beside(beta, target_part) * target_part + beside(alpha, other_part) * other_part",
           L_TESTS),
    Mutant("FitNet summed", LOSSES,
           "return F.mse_loss(student, teacher)",
           'return F.mse_loss(student, teacher, reduction="sum")', L_TESTS),
    Mutant("PKT in the other direction", LOSSES,
           "p, q = (_affinities(x.flatten(1 + stacked)) for x in (teacher, student))",
           "q, p = (_affinities(x.flatten(1 + stacked)) for x in (teacher, student))", L_TESTS),
    Mutant("SP without row norms", LOSSES,
           "return unit_rows(product(x, x.mT))", "return product(x, x.mT)", L_TESTS),
    Mutant("FitNet's stack over all members", LOSSES,
           "gap * (2.0 / gap[0].numel())", "gap * (2.0 / gap.numel())", L_TESTS),
    # -- distillers of logits
    Mutant("NKD with the target at T", LOGITS,
           "target_part = -mean_of(log_p.exp() * log_q)",
           "target_part = -mean_of(target_nontarget(teacher_logits / 2, target)[0].exp() * log_q)",
           LOGITS_TESTS),
    Mutant("DIST that adds the correlation of classes", PREDICTIONS,
           "intra = mean_of(1 - _correlations(student.mT, teacher.mT))",
           "intra = mean_of(_correlations(student.mT, teacher.mT))", LOGITS_TESTS),
    Mutant("a slope of 1e8 at constant rows", LOGITS,
           "return centred.masked_fill(", "return centred; (", LOGITS_TESTS),
    Mutant("WTTM without its weights", LOGITS,
           "mean_of(log_sum.squeeze(-1).exp() * terms.sum(dim=-1))", "mean_of(terms.sum(dim=-1))",
           LOGITS_TESTS),
    Mutant("WTTM with the student at T", LOGITS,
           "student = torch.log_softmax(student_logits, dim=-1)\n    terms",
           "student = torch.log_softmax(student_logits / temperature, dim=-1)\n    terms",
           LOGITS_TESTS),
    Mutant("MLKD with the batch's term in place of the classes'", PREDICTIONS,
           "of_classes = mixed.square().sum(dim=(-2, -1)) + crossed", "of_classes = 2 * crossed",
           LOGITS_TESTS),
    Mutant("OFA without the target", LOGITS,
           ".scatter(-1, own, enhanced)", "", LOGITS_TESTS),
    Mutant("Z-scores with the biased deviation", LOGITS,
           "max(logits.shape[-1] - 1, 1)", "logits.shape[-1]", LOGITS_TESTS),
    Mutant("SKD without the covariance", PREDICTIONS,
           "torch.linalg.cholesky_ex(covariance + ridges)", "torch.linalg.cholesky_ex(ridges)",
           LOGITS_TESTS),
    Mutant("CC summed to one power less", LOSSES,
           "range(1, order + 1)", "range(1, order)", LOGITS_TESTS),
    # -- distillers of maps
    Mutant("AT without the length of its maps", "ntdh_bench/distillers/maps.py",
           "return unit_rows(activity)", "return activity", MAPS_TESTS),
    Mutant("AT at every position", "ntdh_bench/distillers/maps.py",
           "activity = activity * share.flatten(1).sqrt()", "activity = activity * 1.0",
           MAPS_TESTS),
    Mutant("maps on the grid of the student", "ntdh_bench/distillers/maps.py",
           "size = tuple(min(pair) for pair in pairs)", "size = tuple(pair[0] for pair in pairs)",
           MAPS_TESTS),
    Mutant("VID without the logarithm", "ntdh_bench/distillers/maps.py",
           "/ spread + spread.log()) / 2", "/ spread) / 2", MAPS_TESTS),
    Mutant("VID's variance that overflows", "ntdh_bench/distillers/vid.py",
           "F.softplus(self.raw_variances[tap])", "self.raw_variances[tap].exp().log1p()",
           MAPS_TESTS),
    Mutant("maps of data that are not aligned", "ntdh_bench/distillers/taps.py",
           "if axes and not aligned:", "if not aligned and False:", MAPS_TESTS),
    Mutant("dense maps of all pixels", "models/distillation.py",
           "kept_outputs(student, keep, distiller.by_position)", "kept_outputs(student, keep)",
           "tests/models/test_dense.py"),
    Mutant("SimKD with a head that learns", "ntdh_bench/distillers/simkd.py",
           "copy.deepcopy(head).requires_grad_(False)", "copy.deepcopy(head)", SIMKD_TESTS),
    Mutant("SimKD with the untrained teacher's head", "ntdh_bench/distillers/simkd.py",
           "            ours.take(theirs)\n", "", SIMKD_TESTS),
    Mutant("ReviewKD without its averages", "ntdh_bench/distillers/maps.py",
           "total = total + mean_of(gap, of_cells, stacked) / 2**level", "pass", REVIEW_TESTS),
    Mutant("ReviewKD without what is deeper", "ntdh_bench/distillers/reviewkd.py",
           "fused * share[:, :1] + deeper * share[:, 1:]", "fused * share[:, :1]", REVIEW_TESTS),
    Mutant("SRD of features as they are", LOSSES,
           "return (x - mean) / (variance + SRD_EPSILON).sqrt()", "return x",
           "tests/ntdh_bench/distillers/test_srd.py"),
    Mutant("standardised and plain in one stack", "ntdh_bench/distillers/kd.py",
           "return super().stack_key, self.standardize", "return super().stack_key",
           DISTILLER_TESTS),
    Mutant("a derived method stacked as its parent", DISTILLER,
           'form = cls if "batched" in vars(cls) else Distiller', "form = cls", DISTILLER_TESTS),
    Mutant("a stack with the numbers of its first member", DISTILLER,
           "[getattr(member, name) for member in members]", "[getattr(members[0], name)]",
           DISTILLER_TESTS),
    Mutant("RKD with the angles' sign turned", RELATIONS,
           "loss = loss + beside(angle_weight, angle) * angle",
           "loss = loss - beside(angle_weight, angle) * angle", R_TESTS),
    Mutant("RKD's distances not relative", RELATIONS,
           "return distances / _mean_positive(distances)", "return distances", R_TESTS),
    Mutant("CRD's positive taken for a negative", CONTRASTIVE,
           "odds[..., 0].neg_()", "odds[..., -1].neg_()", CRD_TESTS),
    Mutant("CRD's student against its own bank", "ntdh_bench/distillers/crd.py",
           "contrast_losses(sides, self._memories()[::-1]",
           "contrast_losses(sides, self._memories()", CRD_TESTS),
    Mutant("CRD's momentum swapped", "ntdh_bench/distillers/crd.py",
           "momentum * old + rest * new", "rest * old + momentum * new", CRD_TESTS),
    Mutant("CRD's tiny terms lost", CONTRASTIVE,
           ".addcdiv_(lost, above)", "", CONTRASTIVE_TESTS),
    Mutant("CRD's members with the draw of the first", "ntdh_bench/distillers/negatives.py",
           "self._seeds.index(seed)", "0", CRD_TESTS),
    # -- networks that train together
    Mutant("mutual learning through both networks", MUTUAL,
           "to_student = kd(student_logits, teacher_logits.detach(), temperature)",
           "to_student = kd(student_logits, teacher_logits, temperature)", MUTUAL_TESTS),
    Mutant("C2KD's selection divided by all rows", MUTUAL,
           "selected.sum().clamp(min=1)", "max(len(selected), 1)", MUTUAL_TESTS),
    Mutant("C2KD's teacher starts untrained", "models/c2kd.py",
           "self.teacher.load_state_dict(self.frozen_teacher.network.state_dict())",
           "assert self.frozen_teacher.network", "tests/models/test_mutual.py"),
    Mutant("MST-Distill's masks pile up", "models/mst_distill.py",
           "handle.remove()", "pass", "tests/models/test_mst_distill.py"),
    Mutant("MST-Distill's gate teaches the student", "models/mst_distill.py",
           "logits = student_logits.detach()", "logits = student_logits",
           "tests/models/test_mst_distill.py"),
    # -- Algorithms 1 and 2
    Mutant("saliency with the other sign", PERMUTED,
           "sums[part] = (self.base - distances).sum(1)",
           "sums[part] = (distances - self.base).sum(1)", S_TESTS),
    Mutant("nothing is permuted", PERMUTED,
           "values_of_copy[:, feature] = values_of_copy[order, feature]", "pass", S_TESTS),
    Mutant("saliency of the last batch alone", "ntdh_bench/masks/saliency.py",
           "difference = difference + sum(", "difference = sum(", S_TESTS),
    Mutant("one permutation for all batches", "ntdh_bench/masks/saliency.py",
           'generator(self.seed, "saliency", m, batch_number)',
           'generator(self.seed, "saliency", m)', S_TESTS),
    Mutant("the feature mask is never put in place", FEATURE_MASK,
           "self._handle = mask_layer(teacher.network, self.layer, mask)", "pass", M_TESTS),
    Mutant("means of the last batch alone", FEATURE_MASK,
           "total = total + rows.sum(0, dtype=torch.float64)",
           "total = len(rows) * 2 * rows.mean(0, dtype=torch.float64)", F_TESTS),
    Mutant("kept features make up for nothing", FEATURE_MASK,
           "zeroing.scale * (len(self.keep) / left)", "zeroing.scale", F_TESTS),
    Mutant("the feature mask is turned round", FEATURE_MASK,
           "self.keep = self.choose(divergence, self.removes)",
           "self.keep = ~self.choose(divergence, self.removes)", F_TESTS),
    Mutant("the wrong end of the ranking is removed", "ntdh_bench/masks/base.py",
           'descending=removes == "most_divergent"', 'descending=removes != "most_divergent"',
           SAMPLE_TESTS),
    Mutant("what is removed stays, and what stays is removed", "ntdh_bench/masks/base.py",
           "keep[order[:removed]] = False", "keep[order[removed:]] = False", SAMPLE_TESTS),
    Mutant("the same random rows in every epoch", "ntdh_bench/masks/sample_mask.py",
           'generator(self.seed, "sample_mask", epoch, batch_idx)',
           'generator(self.seed, "sample_mask", batch_idx)', SAMPLE_TESTS),
    Mutant("a control is measured on all rows", "ntdh_bench/metrics.py",
           "pair = Comparison(*(values[kept] for values in rows))", "pair = Comparison(*rows)",
           M_TESTS),
    Mutant("the sample mask compares the teacher with itself", "ntdh_bench/masks/sample_mask.py",
           "return ncjsd(teacher, student, target)",
           "return ncjsd(teacher, teacher, target)", SAMPLE_TESTS),
    Mutant("tau-a in place of tau-b", "ntdh_bench/rank_correlation.py",
           "untied += ours.abs_().sum(0)", "untied += len(ours)", TAU_TESTS),
    Mutant("a row that just meets the threshold stays", "ntdh_bench/masks/sample_mask.py",
           "divergence >= -self.threshold", "divergence > -self.threshold", SAMPLE_TESTS),
    # -- stacks
    Mutant("recorded steps add to gradients that were dropped", "ntdh_bench/stacks/graphs.py",
           "        self._give_back()\n", "", "tests/ntdh_bench/stacks/test_graphs.py"),
    Mutant("a stack's members clipped together", STACK,
           "squares.index_add_(0, members.reshape(-1), square.to(squares))",
           "squares += square.sum()", STACK_TESTS),
    Mutant("a later epoch as good as the best is taken", DISTILLATION_STACK,
           "better = score > self._best_score", "better = score >= self._best_score", STACK_TESTS),
    Mutant("all members get the batches of one seed", "ntdh_bench/stacks/data.py",
           "return inputs.index_select(0, streams)",
           "return inputs.index_select(0, torch.zeros_like(streams))", STACK_TESTS),
    Mutant("students with other teachers' outputs", DISTILLATION_STACK,
           "teachers = {n: teacher[n][taught]", "teachers = {n: teacher[n][taught.flip(0)]",
           STACK_TESTS),
    Mutant("controls of different weights share a student", DISTILLATION_STACK,
           'return "without KD", module.seed, member.stream, module.task_weight',
           'return "without KD", module.seed, member.stream', STACK_TESTS),
    Mutant("a recorded step without its new batch", "ntdh_bench/stacks/graphs.py",
           "place.copy_(value)", "pass", "tests/ntdh_bench/stacks/test_graphs.py"),
    # -- which runs share a stack, and what becomes of it
    Mutant("members of two lengths in a stack", "ntdh_bench/stacks/requirements.py",
           'not in ("seed_everything", "mask", *PINNED)',
           'not in ("seed_everything", "mask", "trainer", *PINNED)', PLAN_TESTS),
    Mutant("settings that a stack does not follow", "ntdh_bench/stacks/requirements.py",
           'return f"trainer.{name}"', "continue", PLAN_TESTS),
    Mutant("stacks larger than the memory", "ntdh_bench/stacks/plan.py",
           "> machine.memory for p in", "> math.inf for p in", PLAN_TESTS),
    Mutant("a divided stack loses its last members", "ntdh_bench/sweep/driver.py",
           "range(0, len(job.runs), size)", "range(0, len(job.runs) - size, size)", JOB_TESTS),
    Mutant("two sweeps split a stack", "ntdh_bench/sweep/driver.py",
           "self._elsewhere.append(job)", "self._pending.extend(Job((r,)) for r in job.runs)",
           JOB_TESTS),
    Mutant("a list of members that is not its folder's", "ntdh_bench/sweep/store.py",
           "digest(members) != folder.name or ", "", JOB_TESTS),
    Mutant("runs without data are all tried", "ntdh_bench/sweep/driver.py",
           "if (data := _data_of(job.runs[0])) in self._no_data:",
           "if (data := _data_of(job.runs[0])) is None:", "tests/ntdh_bench/sweep/test_driver.py"),
    # -- the loss, and what a run without KD is
    Mutant("the task weight does not count", MODULE,
           "loss = self.task_weight * task\n", "loss = task\n", M_TESTS),
    Mutant("the weight of the distiller does not count", MODULE,
           "loss = loss + self.distill_weight * distilled", "loss = loss + distilled", M_TESTS),
    Mutant("lambda weighs the task", MODULE,
           "return 1 - lam, lam", "return lam, 1 - lam", M_TESTS),
    Mutant("ignored pixels are distilled", MODULE,
           "keep = target != self.ignore_index", "keep = target == target",
           "tests/models/test_dense.py"),
    Mutant("the mask is part of what a control must share", f"{RECORDS}identity.py",
           '"model": student, "mask": None,', '"model": student,', REC_TESTS),
    Mutant("students of two task weights share a control", "ntdh_bench/runs/control.py",
           '"task_weight": task_weight(identity["model"]["init_args"]),', "",
           "tests/ntdh_bench/runs/test_control.py"),
    Mutant("a matched control is taken for w/o KD", f"{RECORDS}identity.py",
           "if weight is None or weight == 1:", "if weight is None or weight >= 1:", REC_TESTS),
    # -- metrics and segmentation
    Mutant("a batch counts as one sample", "ntdh_bench/metrics.py",
           "self.count += len(values)", "self.count += 1", "tests/ntdh_bench/test_metrics.py"),
    Mutant("hits are counted twice in the union", SEGMENTATION,
           "self.confusion.sum(dim=1)).double() - hits", "self.confusion.sum(dim=1)).double()",
           SEG_TESTS),
    Mutant("excluded classes are averaged", SEGMENTATION,
           ".masked_fill(~self.evaluated, math.nan)", "", SEG_TESTS),
    Mutant("Lovasz without sorting", FUSED,
           "order = errors.argsort(dim=1, descending=True, stable=True)",
           "order = errors.argsort(dim=1, descending=False, stable=True)", FUSED_TESTS),
    Mutant("the focal exponent on the hit", FUSED,
           "value = -miss.pow(gamma)", "value = -(1 - miss).pow(gamma)", FUSED_TESTS),
    # -- geometry and labels
    Mutant("rows by the height of the image", PROJECTION,
           "row[point].long() * width + column[point].long()",
           "row[point].long() * height + column[point].long()", P_TESTS),
    Mutant("the farthest point wins", PROJECTION,
           'key = bits | torch.arange(len(pixel), device=pixel.device)',
           'key = -bits | torch.arange(len(pixel), device=pixel.device)', P_TESTS),
    Mutant("points behind the camera", PROJECTION,
           "inside = (depth > 0) & ", "inside = (depth != 0) & ", P_TESTS),
    Mutant("the grid's axes in the order of the world", "datamodules/nyuv2/camera.py",
           "for axis, side in zip((0, 2, 1), grid, strict=True):",
           "for axis, side in zip((0, 1, 2), grid, strict=True):",
           "tests/datamodules/nyuv2/test_camera.py"),
    Mutant("hollow blocks from half empty", VOXELS,
           "_EMPTY_SHARE = 0.95", "_EMPTY_SHARE = 0.5", V_TESTS),
    Mutant("the commonest class off by one", VOXELS,
           "count[:, 1:classes].argmax(axis=1) + 1", "count[:, 1:classes].argmax(axis=1)",
           V_TESTS),
    Mutant("instances in the labels", "datamodules/semantickitti/reader.py",
           "(raw & 0xFFFF)", "(raw >> 16)", "tests/datamodules/semantickitti/test_reader.py"),
    Mutant("classes off by one", "datamodules/semantickitti/labels.py",
           'table[raw] = CLASS_NAMES.index(label["class"])',
           'table[raw] = (CLASS_NAMES.index(label["class"]) + 1) % 20',
           "tests/datamodules/semantickitti/test_labels.py"),
    Mutant("one class's weight for all", "datamodules/semantickitti/labels.py",
           "weights[0] = 0", "weights[1] = 0", "tests/datamodules/semantickitti/test_labels.py"),
    Mutant("the gap shares what it should not", "datamodules/synthetic.py",
           "self.shift = round(gap * decisive)", "self.shift = round((1 - gap) * decisive)",
           "tests/datamodules/test_synthetic.py"),
    Mutant("digits in grey", "datamodules/mnist/mnist_m.py",
           "np.where(digits[rows] > 0, np.uint8(255), np.uint8(0))", "digits[rows]",
           "tests/datamodules/mnist/test_mnist_m.py"),
    # -- seeds
    Mutant("purposes share a stream", SEEDING,
           "[str(seed), purpose, *map(str, numbers)]", "[str(seed), *map(str, numbers)]",
           SEED_TESTS),
    Mutant("noise repeats in every epoch", SEEDING,
           "derive_seed(seed, purpose, epoch)", "derive_seed(seed, purpose)", SEED_TESTS),
    Mutant("samples share their noise", SEEDING,
           "rows[:, None] + np.arange(1, words + 1", "rows[:1, None] + np.arange(1, words + 1",
           SEED_TESTS),
    Mutant("a GPU shifts counters with their signs", SEEDING,
           ".bitwise_and_((1 << (bits - count)) - 1)", "", SEED_TESTS),
    # -- GPUs
    Mutant("workers are given data on a GPU", "datamodules/paired.py",
           'if device.type == "cpu" or self.num_workers:', 'if device.type == "cpu":',
           "tests/datamodules/test_paired.py"),
    Mutant("a checkpoint is saved before losses are looked at", "models/base.py",
           'not finite (Lightning hook)."""\n        self.check_finite()',
           'not finite (Lightning hook)."""', "tests/models/test_teacher_joint.py"),
    Mutant("networks are checked with a batch of the CPU", "models/base.py",
           "logits = network(to_device(inputs, device_of(network)))", "logits = network(inputs)",
           "tests/models/test_teacher_joint.py"),
    # -- the report
    Mutant("spread of a population", STATISTICS,
           "spread = float(x.std(ddof=1))", "spread = float(x.std(ddof=0))", STAT_TESTS),
    Mutant("Bonferroni for Holm", STATISTICS,
           "(len(ps) - rank) * ps[index]", "len(ps) * ps[index]", STAT_TESTS),
    Mutant("p of the other side", STATISTICS,
           "return t_cdf(-float(x.mean()) / error, x.size - 1)",
           "return t_cdf(float(x.mean()) / error, x.size - 1)", STAT_TESTS),
    Mutant("all parts as if one would do", STATISTICS,
           "sorted(ps)[count - 1]", "sorted(ps)[0]", STAT_TESTS),
    Mutant("support where the hypothesis says the opposite", HYPOTHESIS,
           "sides(pooled, MARGIN, -1)", "sides(pooled, MARGIN, 1)", H_TESTS),
    Mutant("the difference of slopes turned round", HYPOTHESIS,
           "[n, t, accuracy], [1, -1, 0]", "[n, t, accuracy], [-1, 1, 0]", H_TESTS),
    Mutant("the teacher as it is among random masks", HYPOTHESIS,
           " and name != RANDOM_MASKS", "", H_TESTS),
    Mutant("one part against all as if alone", CLAIMS,
           "refuting = every - needed + 1", "refuting = every", CLAIM_TESTS),
    Mutant("what a gate stops stands", CLAIMS,
           "if not failed or ", "if failed or ", CLAIM_TESTS),
    Mutant("weight adjustment in the strata", HYPOTHESIS,
           'row["method"] != "WeightedKL" and ', "", H_TESTS),
    Mutant("a gain that is a sum", PAIRING,
           "return float(row[column] - control[column])",
           "return float(row[column] + control[column])", PAIR_TESTS),
    Mutant("the divergence after distillation", PAIRING,
           "value = None if control is None else control[",
           "value = None if control is None else row[", PAIR_TESTS),
    Mutant("a control of other weights is matched", PAIRING,
           'if isclose(_weighed(c, "task_weight"), weight)]', "]", PAIR_TESTS),
    Mutant("a control from anywhere in the experiment", PAIRING,
           "if _is_beside(row, control)]", "]", PAIR_TESTS),
    Mutant("the lowest score is best", RANKS,
           "[-scores[name][method] for method in methods]",
           "[scores[name][method] for method in methods]", RANK_TESTS),
    Mutant("a critical difference of Tukey's", RANKS,
           "studentized_range.ppf(1 - level, methods, np.inf)) / math.sqrt(2)",
           "studentized_range.ppf(1 - level, methods, np.inf))", RANK_TESTS),
    Mutant("bars over what is told apart", RANKS,
           "ranks[last] - ranks[first] < difference", "ranks[last] - ranks[first] <= difference",
           RANK_TESTS),
    Mutant("pairs are told apart where no difference was found", RANKS,
           "if self.p >= LEVEL:", "if False:", RANK_TESTS),
    Mutant("a lucky seed counts", OVERVIEW,
           'for row in rows if (protocol, row["seed"]) in common)', "for row in rows)", OVER_TESTS),
    Mutant("a protocol counts as a data set", OVERVIEW,
           'sets = by_key(rows, lambda row: str(row["dataset"]))', "sets = by_key(rows, _protocol)",
           OVER_TESTS),
    Mutant("trials are ranked", OVERVIEW,
           'if row["protocol"] != TRIAL]', "]", OVER_TESTS),
    # -- records
    Mutant("ranges are not checked", f"{RECORDS}columns.py",
           "if not low - _ROUNDING <= value <= high + _ROUNDING:", "if False:", REC_TESTS),
    Mutant("lambda in the wrong column", f"{RECORDS}identity.py",
           'arguments.get("task_weight") if lam is None else 1 - lam',
           'arguments.get("task_weight") if lam is None else lam', REC_TESTS),
    Mutant("the record of another run", f"{RECORDS}files.py",
           'if record.get("run") != run:', "if False:", REC_TESTS),
    # -- paired sets
    Mutant("edges of what moves count in full", f"{PAIRS}utd_mhad.py",
           "np.minimum(change, _FAR).sum", "change.sum", MOTION_TESTS),
    Mutant("subjects on the other side", f"{PAIRS}utd_mhad.py",
           "np.where(group % 2, TRAIN, TEST)", "np.where(group % 2, TEST, TRAIN)", MOTION_TESTS),
    Mutant("windows from before both devices record", f"{PAIRS}sp_sw_har.py",
           "start = max(phone", "start = min(phone", MOTION_TESTS),
    Mutant("windows of 80 % are left out", f"{PAIRS}sp_sw_har.py",
           "(most >= _PURITY * total)", "(most > _PURITY * total)", MOTION_TESTS),
    Mutant("a text that stands for many series", f"{PAIRS}seglearn_watch.py",
           "if sum(array.nbytes for array in packed) > _MAX_BYTES:", "if False:", MOTION_TESTS),
    Mutant("training digits for testing", f"{PAIRS}av_mnist.py",
           'TEST: "t10k"}', 'TEST: "train"}', "tests/datamodules/pairs/test_av_mnist.py"),
    Mutant("a pickle may name anything", "ntdh_bench/files/pickled.py",
           "if name not in _GLOBALS:", "if False:", "tests/ntdh_bench/files/test_pickled.py"),
    Mutant("a pickle of any length", "ntdh_bench/files/pickled.py",
           "islice(pickletools.genops(content), _MAX_STEPS)", "pickletools.genops(content)",
           "tests/ntdh_bench/files/test_pickled.py"),
    # -- many runs
    Mutant("the mask keeps the seed of another run", "ntdh_bench/parsing/configs.py",
           'return [part for part in _LINKED if "seed"',
           'return [part for part in ("model", "data") if "seed"', PARSE_TESTS),
    Mutant("edited code is parsed as it was", "ntdh_bench/parsing/parser.py",
           "if provenance.code_of(parsed.plain) != parsed.code:", "if False:", PARSE_TESTS),
    Mutant("all that was parsed is one object", "ntdh_bench/parsing/parser.py",
           "config, dumped, plain = self.config.clone(), deepcopy(self.dumped), "
           "deepcopy(self.plain)", "config, dumped, plain = self[:3]", PARSE_TESTS),
    Mutant("ignored samples are right", "ntdh_bench/metrics.py",
           "((logits.argmax(dim=1) == target) & counted).sum()",
           "((logits.argmax(dim=1) == target) | ~counted).sum()",
           "tests/ntdh_bench/test_metrics.py"),
    Mutant("an import takes the start of a damaged file", TRANSFER,
           "    _check_whole(path)\n    csv", "    csv", TRANSFER_TESTS),
    Mutant("an import replaces what is here", TRANSFER,
           "elif not self.replace and (", "elif False and (", TRANSFER_TESTS),
    Mutant("an import takes runs of other experiments", TRANSFER,
           "if not isinstance(run, str) or run not in runs:", "if not isinstance(run, str):",
           TRANSFER_TESTS),
    Mutant("CKA of features that are not centred", "ntdh_bench/dependence.py",
           "products - sums.mT * sums / count", "products - 0 * sums / count", DEPENDENCE_TESTS),
    Mutant("rounding of constant features counts", "ntdh_bench/dependence.py",
           "_CONSTANT = 1e-12", "_CONSTANT = -1", DEPENDENCE_TESTS),
    Mutant("joint counts of another member", "ntdh_bench/dependence.py",
           "second + starts", "second + 0 * starts", DEPENDENCE_TESTS),
    Mutant("features of ignored samples count", "ntdh_bench/metrics.py",
           "values[target != ignore_index] for values in features", "values for values in features",
           "tests/ntdh_bench/test_metrics.py"),
    # -- teachers of both modalities
    Mutant("outputs kept though one of both modalities changes", "datamodules/paired.py",
           "return dataset.teacher_fixed and dataset.student_fixed",
           "return dataset.teacher_fixed", "tests/datamodules/test_paired.py"),
    Mutant("a gate that shuts both out", "models/multimodal.py",
           "(1 - gate) * torch.tanh", "gate * torch.tanh", BOTH_TESTS),
    Mutant("teachers of other fusions from the cache", "ntdh_bench/runs/teacher.py",
           '"teacher_fusion", ', "", BOTH_TESTS),
    Mutant("students that are not shared by teachers of both", "ntdh_bench/records/identity.py",
           '"teacher_epochs", "teacher_inputs", "teacher_fusion",', '"teacher_epochs",',
           BOTH_TESTS),
    # -- joint teachers of other distances; what dry runs go by
    Mutant("teachers of other distances from the cache", "ntdh_bench/runs/teacher.py",
           '    "teacher_dist_weight", "teacher_dist",\n', "",
           "tests/ntdh_bench/runs/test_teacher.py"),
    Mutant("a distance of a stack that is not weighed", STACK,
           "task + self.dist_weight.to(task) * distances", "task + distances", STACK_TESTS),
    Mutant("a distance that weighs the wrong way", "models/joint.py",
           "task + self.dist_weight * distilled", "task + distilled / self.dist_weight",
           "tests/models/test_teacher_joint.py"),
    Mutant("estimates from runs of another size", ESTIMATE,
           "return None if isinstance(value, float) else value", "return None", ESTIMATE_TESTS),
    Mutant("estimates that do not count epochs", ESTIMATE,
           "means[kind] * epochs", "means[kind]", ESTIMATE_TESTS),
    Mutant("target divergences that cancel between samples", "ntdh_bench/metrics.py",
           "lambda pair: pair.tckl().abs()", "lambda pair: pair.tckl()",
           "tests/ntdh_bench/test_metrics.py"),
    Mutant("simulated files below that become real", f"{PAIRS}layouts.py",
           "    refuse_mixed(folder, folder / name)\n", "", PUB_TESTS),
    Mutant("a prepared set that is replaced", f"{PAIRS}published.py",
           "    if path.exists():\n        _require_same", "    if False:\n        _require_same",
           PUB_TESTS),
)  # fmt: skip


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the tree; a mutant is taken out again after its tests."""
    copy = tmp_path_factory.mktemp("mutants")
    for name in COPIED:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


@pytest.fixture
def mutated(tree: Path, mutant: Mutant) -> Iterator[Path]:
    """Put a mutant into the copy of the tree."""
    path = tree / mutant.file
    text = path.read_text()
    path.write_text(text.replace(mutant.old, mutant.new))
    yield tree
    path.write_text(text)


def run_tests(tree: Path, *files: str) -> subprocess.CompletedProcess[str]:
    """Run some tests of a copy of the tree, without what makes them depend on this machine."""
    kept = {n: v for n, v in os.environ.items() if n not in ("NTDH_DATA", "NTDH_GOLDEN")}
    # Compiled files of a mutant are as old and as large as those of the original.
    variables = {**kept, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(tree)}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *files]
    return subprocess.run(
        command,
        cwd=tree,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_mutant_fits_the_code(mutant: Mutant) -> None:
    """In the ordinary suite: else a mutant would be lost with the code that it was written for."""
    count = (ROOT / mutant.file).read_text().count(mutant.old)
    assert count == 1, (
        f"{mutant.file} holds the text of {mutant.name!r} {count} times: rewrite the mutant in "
        f"{Path(__file__).name} for the code as it is"
    )
    assert mutant.new != mutant.old
    assert (ROOT / mutant.tests).is_file()


@pytest.mark.slow
def test_the_tests_pass_without_a_mutant(tree: Path) -> None:
    """Else they would catch anything."""
    done = run_tests(tree, *sorted({mutant.tests for mutant in MUTANTS}))
    assert done.returncode == PASSED, done.stdout[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_mutant_is_caught(mutated: Path, mutant: Mutant) -> None:
    done = run_tests(mutated, mutant.tests)
    assert done.returncode != PASSED, f"no test of {mutant.tests} sees that {mutant.name}"
    assert done.returncode == FAILED, f"the tests could not run:\n{done.stdout[-3000:]}"
