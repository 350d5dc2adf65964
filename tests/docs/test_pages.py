"""The pages name what there is: methods, masks, data sets, configs, sweeps, numbers."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from ntdh_bench import distillers, interventions, masks, models
from ntdh_bench.composition import find_config
from ntdh_bench.datamodules import plugin
from ntdh_bench.datasets import dataset_names
from ntdh_bench.distillers import functional
from ntdh_bench.experiments import find_experiment

DOCS = Path("docs")
METHODS = {path.name: path.read_text() for path in sorted((DOCS / "methods").glob("*.md"))}
PAIR_MODULES = [models.MutualModule, models.C2KDModule, models.MSTDistillModule]
#: Pages of this package's things, which name its configs and sweeps.
PAGES = [
    *sorted((DOCS / "methods").glob("*.md")), *sorted((DOCS / "datasets").glob("*.md")),
    DOCS / "masks.md", DOCS / "interventions.md",
]  # fmt: skip
#: Numbers that the text of a page takes from a signature: page, text, class, argument.
TOLD = [
    ("features.md", "a weight of 100 ", distillers.FitNet, "weight"),
    ("features.md", "from the published start at 5.", distillers.VID, "initial_variance"),
    ("relations.md", "the weight of 30,000;", distillers.PKT, "weight"),
    ("relations.md", "The weight of 3,000 ", distillers.SP, "weight"),
    ("relations.md", "The published 16,384 negatives", distillers.CRD, "negatives"),
    ("logits.md", r"$\beta = 8$ was chosen", distillers.DKD, "beta"),
    ("logits.md", "times the weight 5 is", distillers.MLKD, "weight"),
    ("logits.md", "At $T = 4$ it is seldom", distillers.KD, "temperature"),
]


def sections(text: str) -> dict[str, str]:
    """Return the text below each heading of the second level, by heading."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def fenced(text: str, kind: str) -> list[str]:
    """Return the arguments of all directives of a kind."""
    return re.findall(rf"^```{{{kind}}}(?: (.+))?$", text, flags=re.MULTILINE)


@pytest.mark.parametrize(
    "of",
    [*(getattr(distillers, name) for name in distillers.__all__), *PAIR_MODULES],
    ids=lambda of: of.__name__,
)
def test_every_method_has_a_section_with_its_signature(of: type) -> None:
    (body,) = [
        found[of.__name__] for found in map(sections, METHODS.values()) if of.__name__ in found
    ]
    package = "models" if of in PAIR_MODULES else "distillers"
    assert body.count(f"autoclass:: ntdh_bench.{package}.{of.__name__}\n") == 1
    if of is not distillers.Distiller:
        assert "$$" in body


def test_every_overlay_of_a_method_is_shown() -> None:
    shown = {Path(f).name for t in METHODS.values() for f in fenced(t, "literalinclude")}
    assert {path.name for path in Path("configs/methods").glob("*.yaml")} <= shown


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_what_a_page_includes_is_there(page: Path) -> None:
    for name in fenced(page.read_text(), "literalinclude"):
        assert (page.parent / name).is_file(), name


def test_the_index_has_every_method() -> None:
    linked = set(re.findall(r"^\| \[`(\w+)`\]", METHODS["index.md"], flags=re.MULTILINE))
    names = {*distillers.__all__, *(of.__name__ for of in PAIR_MODULES)} - {"Distiller"}
    assert linked == names


def test_every_mask_and_intervention_has_a_section() -> None:
    for module, page, base in (
        (masks, "masks.md", masks.Mask),
        (interventions, "interventions.md", interventions.Intervention),
    ):
        text = (DOCS / page).read_text()
        for name in module.__all__:
            of = getattr(module, name)
            if inspect.isclass(of) and issubclass(of, base) and not inspect.isabstract(of):
                assert f"autoclass:: {module.__name__}.{name}\n" in text, name


def test_every_intervention_has_its_line_and_section() -> None:
    text = (DOCS / "interventions.md").read_text()
    for name in re.findall(r"autoclass:: ntdh_bench\.interventions\.(\w+)target\n", text):
        assert f"[`{name}target`](#{name.lower()}target)" in text
        assert fenced(sections(text)[f"{name}target"], "doses") == [f"{name}target"]


@pytest.mark.parametrize("name", sorted(dataset_names()))
def test_every_data_set_has_a_page(name: str) -> None:
    text = (DOCS / "datasets" / f"{'own' if name == 'pairs' else name}.md").read_text()
    assert fenced(text, "dataset") == [name]
    if name != "pairs":
        assert fenced(text, "configs") == [name]
        assert {"Mind", "Reference" if "## Reference" in text else "On disk"} <= set(sections(text))


def test_what_was_measured_is_asked_of_methods_and_protocols_that_there_are() -> None:
    experiment = yaml.safe_load(Path("configs/sweeps/methods.yaml").read_text())
    labels = {label for grid in experiment["grids"] for label in grid["axes"]["method"]}
    texts = [page.read_text() for page in PAGES]
    assert {name for text in texts for name in fenced(text, "gains-of")} == labels - {
        "without_kd",
        "matched",
    }
    asked = {name for text in texts for name in fenced(text, "gains-on")}
    assert asked == experiment["protocols"].keys()


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_commands_name_configs_and_sweeps_that_there_are(page: Path) -> None:
    text = page.read_text()
    for name in re.findall(r"--config (\w[\w/.]*)", text):
        if name != "mine.yaml":
            find_config(name)
    for name in re.findall(r"ntdh-bench sweep (\w+)", text):
        find_experiment(name)
    for name in re.findall(r"ntdh-bench data (?:prepare|verify) ([a-z]\w+)\b(?!\.)", text):
        assert name in dataset_names()


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_configs_in_the_text_are_there(page: Path) -> None:
    """Names in code that begin as a data set's: configs, protocols of sweeps."""
    for name in quoted(page.read_text()):
        known = name in protocols() or Path(f"configs/{name}.yaml").is_file()
        assert known or name in dataset_names(), name


@cache
def protocols() -> set[str]:
    sweeps = [yaml.safe_load(path.read_text()) for path in Path("configs/sweeps").glob("*.yaml")]
    return {name for sweep in sweeps for name in sweep.get("protocols", {})}


def quoted(text: str) -> Iterator[str]:
    sets = "|".join(sorted(dataset_names(), key=len, reverse=True))
    return iter(re.findall(rf"`((?:{sets})_\w+)`", text))


@pytest.mark.parametrize(("page", "text", "of", "argument"), TOLD)
def test_numbers_in_the_text_are_the_defaults(
    page: str, text: str, of: type, argument: str
) -> None:
    assert text in METHODS[page].replace("\n", " ")
    (number,) = re.findall(r"\d[\d,]*", text)
    assert inspect.signature(of).parameters[argument].default == float(number.replace(",", ""))


def test_every_loss_is_in_the_reference() -> None:
    text = (DOCS / "api" / "distillers.md").read_text()
    assert f"automodule:: {functional.__name__}\n   :members:" in text


def reference() -> str:
    return "\n".join(page.read_text() for page in [*PAGES, *sorted((DOCS / "api").glob("*.md"))])


@pytest.mark.parametrize("package", [distillers, interventions, masks, models], ids=str)
def test_every_class_has_one_place(package: ModuleType) -> None:
    text = reference()
    for name in package.__all__:
        if inspect.isclass(getattr(package, name)):
            assert text.count(f"autoclass:: {package.__name__}.{name}\n") == 1, name


def test_every_data_module_has_one_place() -> None:
    text = reference()
    for of in filter(inspect.isclass, vars(plugin).values()):
        assert text.count(f"autoclass:: {of.__module__}.{of.__name__}\n") == 1, of.__name__
