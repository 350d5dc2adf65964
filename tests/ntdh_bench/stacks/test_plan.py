"""Which runs share a stack, and why others do not: from configs alone."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from ntdh_bench.errors import UserError
from ntdh_bench.experiments import Run, find_experiment, load_experiment
from ntdh_bench.models import SeriesCNN
from ntdh_bench.run_hash import pin, run_hash
from ntdh_bench.stacks.costs import fills_a_core, member_bytes
from ntdh_bench.stacks.plan import Machine, Plan, check_stackable, make_plan
from ntdh_bench.stacks.requirements import stack_key, why_alone

CPU, GPU = Machine(2, gpu=False, memory=2.0**33), Machine(2, gpu=True, memory=2.0**34)


def network(*hidden: int, in_features: int = 35) -> dict[str, Any]:
    given = {"in_features": in_features, "hidden": list(hidden), "num_classes": 8}
    return {"class_path": "MLPClassifier", "init_args": given}


def config(**changes: Any) -> dict[str, Any]:
    """Of a run that may be in a stack; changes are dotted keys with __ for the dots."""
    made: dict[str, Any] = {
        "seed_everything": 0,
        "trainer": {"max_epochs": 3, "devices": 1},
        "model": {
            "class_path": "DistillationModule",
            "init_args": {
                "teacher_network": network(16),
                "student_network": network(16),
                "distiller": {"class_path": "KD", "init_args": {"temperature": 4.0}},
                "task_weight": 0.5,
                "teacher": "joint",
                "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
            },
        },
        "data": {"class_path": "RAVDESSDataModule", "init_args": {"batch_size": 64}},
    }
    for dotted, value in changes.items():
        *path, last = dotted.split("__")
        place = made
        for key in path:
            place = place[key]
        place[last] = value
    return made


def both(teacher: dict[str, Any], student: dict[str, Any], name: str = "LateFusion") -> Any:
    """A network of both modalities."""
    return {"class_path": name, "init_args": {"teacher": teacher, "student": student}}


def mask(name: str = "FeatureMask", **given: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": {"ratio": 0.5, **given}}


def runs_of(configs: Sequence[dict[str, Any]]) -> list[Run]:
    return [Run(run_hash(c), "short", c["seed_everything"], {}, c) for c in configs]


def seeds(count: int, **changes: Any) -> list[Run]:
    return runs_of([config(seed_everything=seed, **changes) for seed in range(count)])


def shipped(name: str, protocol: str) -> list[Run]:
    runs = load_experiment(find_experiment(name)).runs
    return [run for run in runs if run.protocol == protocol]


def sizes(plan: Plan) -> list[int]:
    return [len(stack.runs) for stack in plan.stacks]


# -- what goes together --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"seed_everything": 1},
        {"model__init_args__distiller": {"class_path": "CRD", "init_args": {"layer": "hidden1"}}},
        {"model__init_args__distiller": {"class_path": "own.DIST"}, "third_party": {"own": "1"}},
        {"model__init_args__distiller": None, "model__init_args__task_weight": 1.0},
        {"model__init_args__distill_weight": 3.0},
        {"model__init_args__lam": 0.25},
        {"model__init_args__teacher_dist_weight": 0.1, "model__init_args__teacher_dist": "ncjsd"},
        {"model__init_args__teacher_checkpoint": "t.ckpt", "given_teacher": "1"},
        {"mask": mask(layer="hidden1")},
        {"mask": mask("ntdh_bench.masks.SampleMask")},
        {"mask": mask("ntdh_bench.masks.SampleMask", score="kendall", threshold=None)},
        {"mask": None},
    ],
)
def test_members_may_differ_in(changes: dict[str, Any]) -> None:
    one, other = config(), config(**changes)
    assert why_alone(other) is None
    assert stack_key(one) == stack_key(other)
    assert sizes(make_plan(runs_of([one, other]), "auto", CPU._replace(jobs=1))) == [2]


def test_a_teacher_like_the_student_goes_by_the_students_network() -> None:
    none, wide = config(model__init_args__teacher_network=None), network(2000, 2000)
    assert why_alone(none) is None
    assert member_bytes(none) == member_bytes(config())
    assert not fills_a_core(none)
    none["model"]["init_args"]["student_network"] = wide
    assert fills_a_core(none)
    none["model"]["init_args"]["student_network"] = {"class_path": "DDRNet"}
    assert why_alone(none) == "DDRNet has no stacked form"


@pytest.mark.parametrize(
    "changes",
    [
        {"trainer__max_epochs": 4},
        {"model__init_args__teacher": "independent"},
        {"model__init_args__student_network": network(17)},
        {"model__init_args__optimizer__init_args__lr": 0.2},
        {"model__init_args__scheduler": {"class_path": "WarmupCosine"}},
        {"data__init_args__batch_size": 32},
        {"data__init_args__gap": 0.5},
    ],
)
def test_members_may_not_differ_in(changes: dict[str, Any]) -> None:
    one, other = config(), config(**changes)
    assert why_alone(other) is None
    plan = make_plan(runs_of([one, other]), "auto", CPU)
    assert sizes(plan) == []
    assert {reason for _, reason in plan.alone} == {"no other run goes with it"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"command": "saliency"}, "saliency command"),
        ({"ckpt_path": "last.ckpt"}, "ckpt_path"),
        ({"data__init_args__num_workers": 2}, "data.num_workers"),
        ({"model": None}, "model None"),
        ({"model__class_path": "ntdh_bench.models.PMFModule"}, "model PMFModule"),
        ({"model__class_path": "own.DistillationModule"}, "model DistillationModule"),
        (
            {"model__init_args__student_network": {"class_path": "EncoderDecoder"}},
            "EncoderDecoder has no stacked form",
        ),
        (
            {"model__init_args__teacher_network": {"class_path": "own.MLPClassifier"}},
            "MLPClassifier has no stacked form",
        ),
        (
            {"model__init_args__teacher_network": both(network(16), {"class_path": "DDRNet"})},
            "DDRNet has no stacked form",
        ),
        (
            {"model__init_args__teacher_fusion": {"class_path": "own.LateFusion"}},
            "LateFusion has no stacked form",
        ),
        ({"model__init_args__ignore_index": 3}, "model.ignore_index"),
        ({"model__init_args__optimizer": {"class_path": "torch.optim.LBFGS"}}, "optimizer LBFGS"),
        ({"model__init_args__optimizer": {"class_path": "own.Adam"}}, "optimizer Adam"),
        (
            {"model__init_args__scheduler": {"class_path": "ReduceLROnPlateau"}},
            "scheduler ReduceLROnPlateau",
        ),
        ({"trainer__callbacks": [{"class_path": "EarlyStopping"}]}, "trainer.callbacks"),
        ({"trainer__precision": "16-mixed"}, "trainer.precision"),
        ({"trainer__devices": 2}, "trainer.devices"),
        ({"trainer__strategy": "ddp"}, "trainer.strategy"),
        ({"trainer__max_time": "00:00:01:00"}, "trainer.max_time"),
        ({"trainer__profiler": "simple"}, "trainer.profiler"),
        ({"trainer__fast_dev_run": True}, "trainer.fast_dev_run"),
        ({"mask": mask(layer="input", fill="retrain")}, "mask.fill: retrain"),
        ({"mask": mask("own.Blur")}, "mask Blur"),
        ({"mask": mask("SampleMask", score="kendall", threshold=0.0)}, "mask.threshold"),
    ],
)
def test_what_keeps_a_run_alone(changes: dict[str, Any], reason: str) -> None:
    assert why_alone(config(**changes)) == reason
    plan = make_plan(seeds(3, **changes), "auto", GPU)
    assert plan.stacks == []
    assert [why for _, why in plan.alone] == [reason] * 3


def test_what_a_trainer_does_anyway_and_what_a_stack_follows_keeps_no_run_alone() -> None:
    told = {
        "max_epochs": 3, "max_steps": -1, "devices": "auto", "strategy": "auto", "num_nodes": 1,
        "accelerator": "cpu", "precision": "bf16-mixed", "callbacks": None, "fast_dev_run": False,
        "gradient_clip_val": 1.0, "gradient_clip_algorithm": "norm", "limit_val_batches": 0.5,
        "overfit_batches": 0.0, "enable_checkpointing": None, "enable_progress_bar": False,
        "accumulate_grad_batches": 2, "inference_mode": True, "profiler": None, "logger": False,
    }  # fmt: skip
    assert why_alone(config(trainer=told)) is None
    assert why_alone(config(trainer=None)) is None


@pytest.mark.parametrize("name", ["SGD", "Adam", "torch.optim.adamw.AdamW", "torch.optim.RMSprop"])
def test_elementwise_optimisers(name: str) -> None:
    assert why_alone(config(model__init_args__optimizer={"class_path": name})) is None
    assert why_alone(config(model__init_args__optimizer=None)) is None


# -- whether it pays -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("widths", "batch_size", "fills"),
    [
        ((35, 64, 64), 64, False),
        ((35, 303, 128), 64, False),
        ((50, 16, 16), None, False),
        ((784, 512, 256), 128, True),
    ],
)
def test_arithmetic_that_fills_a_core(
    widths: tuple[int, ...], batch_size: int | None, fills: bool
) -> None:
    """Of those that were measured, on one core, MNIST's alone gains nothing."""
    settings = config(data__init_args__batch_size=batch_size)
    in_features, *hidden = widths
    settings["model"]["init_args"]["student_network"] = network(*hidden, in_features=in_features)
    assert fills_a_core(settings) == fills


def test_where_it_does_not_pay_runs_are_alone_unless_asked_for() -> None:
    runs = seeds(6, data__init_args__batch_size=100_000)
    plan = make_plan(runs, "auto", CPU)
    assert [reason for _, reason in plan.alone] == ["arithmetic fills the core"] * 6
    assert sizes(make_plan(runs, "auto", GPU)) == [3, 3]
    assert sizes(make_plan(runs, 4, CPU)) == [3, 3]
    on_cpu = seeds(6, data__init_args__batch_size=100_000, trainer__accelerator="cpu")
    assert sizes(make_plan(on_cpu, "auto", GPU)) == []
    plan = make_plan(runs, "off", GPU)
    assert plan.jobs == [(run,) for run in runs]


def test_convolutions_fill_a_core() -> None:
    runs = shipped("table3", "ravdess")[:20]
    assert {why for _, why in make_plan(runs, "auto", CPU).alone} == {"arithmetic fills the core"}
    assert sizes(make_plan(runs, "auto", GPU))


def test_the_shipped_tables() -> None:
    """Table III on feature vectors is two stacks, and so is a figure on synthetic data; Table II,
    on a CPU, is left alone.
    """
    runs = shipped("table3_features", "ravdess_features_actor")
    plan = make_plan(runs, "auto", CPU)
    assert sizes(plan) == [200, 200]
    assert plan.alone == []
    assert sorted(run.hash for job in plan.jobs for run in job) == sorted(run.hash for run in runs)
    assert {stack.why for stack in plan.stacks} == {"400 go together, split for 2 jobs"}
    assert sizes(make_plan(shipped("fig3", "synthetic_converged"), "auto", CPU)) == [30] * 6
    runs = shipped("table2", "mnist")
    assert make_plan(runs, "auto", CPU).stacks == []
    assert sizes(make_plan(runs, "auto", GPU)) == [200, 200]


# -- how large -----------------------------------------------------------------------------------


def test_parts_are_equal_and_keep_seeds_together() -> None:
    members = [
        config(seed_everything=seed, model__init_args__distill_weight=float(weight))
        for weight in range(3)
        for seed in range(5)
    ]
    plan = make_plan(runs_of(members), "auto", CPU)
    assert sizes(plan) == [7, 8]
    found = [[run.seed for run in stack.runs] for stack in plan.stacks]
    assert found == [[0, 0, 0, 1, 1, 1, 2], [2, 2, 3, 3, 3, 4, 4, 4]]
    assert plan == make_plan(runs_of(members), "auto", CPU)


def test_every_group_has_its_share_of_the_jobs() -> None:
    runs = [*seeds(30), *seeds(10, trainer__max_epochs=9)]
    assert sizes(make_plan(runs, "auto", CPU._replace(jobs=4))) == [10, 10, 10, 10]


def test_no_worker_is_idle_for_the_sake_of_a_stack() -> None:
    plan = make_plan(seeds(3), "auto", CPU._replace(jobs=8))
    assert [why for _, why in plan.alone] == ["3 go together, split for 8 jobs"] * 3
    plan = make_plan(seeds(3), "auto", CPU)
    assert (sizes(plan), len(plan.alone)) == ([2], 1)


def test_no_more_at_once_than_were_allowed() -> None:
    plan = make_plan(seeds(7), 3, CPU._replace(jobs=1))
    assert sizes(plan) == [2, 2, 3]
    assert plan.stacks[0].why == "7 go together, split for 3 at once"
    plan = make_plan(seeds(3), 2, CPU._replace(jobs=1))
    assert (sizes(plan), len(plan.alone)) == ([2], 1)
    assert max(sizes(make_plan(seeds(1100), "auto", CPU._replace(jobs=1)))) <= 512


def test_no_more_than_the_memory_holds() -> None:
    runs = seeds(12)
    each = member_bytes(runs[0].config)
    plan = make_plan(runs, "auto", CPU._replace(jobs=1, memory=5 * each))
    assert sizes(plan) == [4, 4, 4]
    assert plan.stacks[0].why == "12 go together, split for memory"
    plan = make_plan(runs, "auto", CPU._replace(jobs=1, memory=each / 2))
    assert {why for _, why in plan.alone} == {"12 go together, split for memory"}


def test_the_memory_of_a_member() -> None:
    """Of weights and all that goes with them, at least; CRD's banks of 60,000 rows on top."""
    plain = member_bytes(config())
    parameters = 2 * (36 * 16 + 17 * 8)
    assert 4 * 4 * parameters < plain < 20 * 4 * parameters + 64 * 2 * (35 + 16 + 8) * 4 * 10
    crd = {"class_path": "CRD", "init_args": {"layer": "hidden1"}}
    assert member_bytes(config(model__init_args__distiller=crd)) - plain > 2 * 60_000 * 128 * 4


@pytest.mark.parametrize("name", ["LateFusion", "ConcatFusion", "GatedFusion"])
def test_teachers_of_both_modalities(name: str) -> None:
    """They are planned as what they join: stacked, of more memory, and on a core if it fills it."""
    nested = {"teacher_network": both(network(16), network(512), name)}
    joined = {"teacher_network": network(512), "teacher_fusion": {"class_path": name}}
    for changes in (nested, joined):
        named = {f"model__init_args__{key}": value for key, value in changes.items()}
        assert sizes(make_plan(seeds(4, **named), "auto", CPU)) == [2, 2]
        assert member_bytes(config(**named)) > member_bytes(
            config(model__init_args__teacher_network=network(512))
        ) + 16 * (36 * 16 + 17 * 8)
    large = both(network(16), network(2000, 2000), name)
    assert fills_a_core(config(model__init_args__teacher_network=large))
    own = runs_of([config(), config(model__init_args__teacher_fusion={"class_path": name})])
    assert sizes(make_plan(own, "auto", CPU)) == []  # a stack is of one network pair


def test_a_config_that_will_be_refused_is_planned_all_the_same() -> None:
    for wrong in ("many", {"x": 1}, [16, "many"]):
        settings = {"class_path": "MLPClassifier", "init_args": {"hidden": wrong}}
        runs = seeds(3, model__init_args__student_network=settings)
        assert len(make_plan(runs, "auto", GPU).alone) == 3


# -- what was interrupted ------------------------------------------------------------------------


def test_an_interrupted_stack_stays_together() -> None:
    """Whatever else is to do, or how many jobs there are now."""
    runs = seeds(12)
    first = [run.hash for run in (runs[7], runs[2], runs[5])]
    plan = make_plan(runs, "auto", CPU, [first])
    assert [run.hash for run in plan.stacks[0].runs] == first
    assert sizes(plan) == [3, 4, 5]
    alone = make_plan([run for run in runs if run.hash in first], 3, CPU, [first])
    assert [[run.hash for run in stack.runs] for stack in alone.stacks] == [first]


def test_what_was_interrupted_but_does_not_go_together_any_more() -> None:
    runs = [*seeds(4), *seeds(2, trainer__max_epochs=9)]
    hashes = [run.hash for run in runs]
    for other in (
        [*hashes[:2], "0" * 16],  # one is not to do
        hashes[3:5],  # of two kinds
        [hashes[0], hashes[0]],  # one twice
        hashes[:1],
        [],
    ):
        plan = make_plan(runs, "auto", CPU._replace(jobs=1), [other])
        assert sizes(plan) == [4, 2]
    overlapping = [hashes[:3], hashes[2:4]]
    assert sizes(make_plan(runs, "auto", CPU._replace(jobs=1), overlapping))[0] == 3
    assert sizes(make_plan(runs, 2, CPU._replace(jobs=1), overlapping[:1])) == [2, 2, 2]
    assert make_plan(runs, "off", CPU, overlapping).stacks == []


# -- the option ----------------------------------------------------------------------------------


def test_a_number_where_nothing_can_be_stacked_is_refused() -> None:
    runs = shipped("table4_small", "semantickitti_small")
    with pytest.raises(UserError, match=r"--stack 8: none .*model PMFModule; model TwoDPASSModule"):
        check_stackable(runs, 8)
    check_stackable(runs, "auto")
    check_stackable([*runs, *seeds(1)], 8)
    check_stackable([], 8)


def test_third_party_code_beside_the_distiller_is_pinned_for_all_alike() -> None:
    plain = pin(config())
    assert stack_key({**plain, "third_party": {"own.DIST": "1"}}) == stack_key(plain)


def test_planning_needs_no_torch() -> None:
    code = (
        "import sys; from ntdh_bench.experiments import find_experiment, load_experiment\n"
        "from ntdh_bench.stacks.plan import Machine, make_plan\n"
        "runs = load_experiment(find_experiment('fig7b_features')).runs\n"
        "assert make_plan(runs, 'auto', Machine(2, False, 1e10)).stacks\n"
        "assert not {'torch', 'lightning', 'numpy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a sum"])
def test_a_method_with_batch_statistics_is_trained_alone(inside: bool) -> None:
    one: dict[str, Any] = {"class_path": "SimKD", "init_args": {}}
    both = {"class_path": "Combined", "init_args": {"distillers": [one]}}
    told = why_alone(config(model__init_args__distiller=both if inside else one))
    assert told == "SimKD keeps statistics of batches"


def test_series_share_a_stack_and_their_memory_is_known() -> None:
    arguments = {"channels": 6, "num_classes": 27}
    series = {"class_path": "SeriesCNN", "init_args": arguments}
    made = config(model__init_args__teacher_network=series)
    assert why_alone(made) is None
    assert not fills_a_core(made)
    parameters = sum(value.numel() for value in SeriesCNN(**arguments).parameters())
    wider = {**series, "init_args": {**arguments, "num_classes": 28}}
    more = member_bytes(config(model__init_args__teacher_network=wider)) - member_bytes(made)
    assert more == 4 * (6 * 65 + 3 * 64)  # a class more: six copies of its weights, its logits
    assert 24 * parameters < member_bytes(made) < 2**26
    broken = {**series, "init_args": {**arguments, "widths": [3]}}
    assert member_bytes(config(model__init_args__teacher_network=broken)) == math.inf
