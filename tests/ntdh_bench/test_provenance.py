from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

from ntdh_bench import provenance
from tests.third_party import forget_code as forget

Write = Callable[[str, str], Path]
NET = "from torch import nn\nfrom .parts import act\n\n\nclass Net(nn.Module):\n    pass\n"


@pytest.fixture
def write(write_module: Write) -> Write:
    return write_module


def code(*names: str) -> dict[str, str]:
    return provenance.code_of(list(names))


@pytest.fixture
def package(write: Write) -> None:
    """A package that re-exports a network, which imports a helper."""
    write("mine/__init__.py", "from .nets import Net\n")
    write("mine/nets.py", NET)
    write("mine/parts.py", "act = 'relu'\n")
    write("mine/unrelated.py", "")


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("edited", ["__init__", "nets", "parts"])
@pytest.mark.parametrize("name", ["mine.Net", "mine.nets.Net"])
def test_an_edit_of_a_module_or_of_what_it_imports_is_other_code(
    name: str, edited: str, write: Write
) -> None:
    before = code(name)
    assert len(before[name]) == 16
    write("mine/unrelated.py", "x = 1\n")
    assert code(name) == before
    path = Path(sys.path[0], "mine", f"{edited}.py")
    write(f"mine/{edited}.py", path.read_text() + "# edited\n")
    assert code(name) != before
    assert "mine" not in sys.modules


@pytest.mark.usefixtures("package")
def test_an_edit_during_a_process_does_not_change_what_it_runs() -> None:
    before = code("mine.Net")
    Path(sys.path[0], "mine", "parts.py").write_text("act = 'tanh'\n")
    assert code("mine.nets.Net", "mine.Net")["mine.Net"] == before["mine.Net"]
    assert code("mine.nets.Net") == {"mine.nets.Net": before["mine.Net"]}
    forget()
    assert code("mine.Net") != before


@pytest.mark.parametrize(
    "imports",
    [
        "import helper",
        "import helper as h",
        "from helper import *",
        "def later():\n    from helper import x",
        "try:\n    import helper\nexcept ImportError:\n    pass",
        "import importlib\nh = importlib.import_module('helper')",
        "import inner.module",
    ],
)
def test_ways_to_import(imports: str, write: Write) -> None:
    write("inner/module.py", "import helper\n")  # a namespace package
    write("helper.py", "x = 1\n")
    write("net.py", f"{imports}\n\n\nclass Net:\n    pass\n")
    before = code("net.Net")
    write("helper.py", "x = 2\n")
    assert code("net.Net") != before


def test_modules_that_import_each_other_end(write: Write) -> None:
    write("one.py", "import two\n")
    write("two.py", "import one\nfrom . import nothing_above\n")
    assert code("one.f")["one.f"] == code("one.g")["one.g"]


def test_what_cannot_be_found_or_read_has_no_code_or_counts_by_its_bytes(write: Write) -> None:
    nowhere = ["nowhere.Net", "Net", "hidden1.weight", "a b.c", "", "1.5", "json.nothing.below"]
    assert code(*nowhere) == {}
    write("broken.py", "def (:\n")
    before = code("broken.Net")
    assert before
    write("broken.py", "def (:\n\n")
    assert code("broken.Net") != before


def test_line_endings_are_no_edit(write: Write) -> None:
    write("net.py", "x = 1\ny = 2\n")
    before = code("net.Net")
    write("net.py", "").write_bytes(b"x = 1\r\ny = 2\r\n")
    assert code("net.Net") == before


def test_the_package_and_its_dependencies_add_nothing() -> None:
    config = {
        "model": {"class_path": "ntdh_bench.models.DistillationModule"},
        "optimizer": [{"class_path": "torch.optim.SGD"}, "torchvision.models.resnet18"],
        "callbacks": ["lightning.pytorch.callbacks.EarlyStopping", "KD", "os.path.join"],
    }
    assert provenance.code_of(config) == {}


def test_every_dependency_is_known() -> None:
    """A class of a dependency that was forgotten would change the hashes of records."""
    text = Path("pyproject.toml").read_text()
    (block,) = re.findall(r"^dependencies = \[$(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    declared = {provenance._normal(name) for name in re.findall(r'^ *"([\w-]+)', block, re.M)}
    assert len(declared) > 15
    of_given = {
        provenance._normal(name)
        for head, names in packages_distributions().items()
        if head in provenance._GIVEN
        for name in names
    }
    assert declared <= of_given


def test_a_users_module_named_as_one_of_the_standard_library(write: Write) -> None:
    write("this.py", "class Net:\n    pass\n")
    assert set(code("this.Net")) == {"this.Net"}


def test_a_module_of_the_working_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    Path("here_only.py").write_text("class Net:\n    pass\n")
    forget()
    assert set(code("here_only.Net")) == {"here_only.Net"}


def test_only_what_a_part_names_counts_for_it() -> None:
    known = {"a.A": "1", "b.B": "2"}
    assert provenance.named_in({"x": [{"class_path": "b.B"}]}, known) == {"b.B": "2"}


# -- distributions -------------------------------------------------------------------------------


def install(
    write: Write, name: str, version: str, files: list[str], direct_url: Any = None, group: str = ""
) -> Path:
    """Lay down the metadata of a distribution beside its files, as an installer does."""
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    write(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    listed = [*files, f"{info}/METADATA", f"{info}/RECORD"]
    if direct_url is not None:
        write(f"{info}/direct_url.json", json.dumps(direct_url))
    if group:
        write(f"{info}/entry_points.txt", f"[ntdh_bench.plugins]\n{group}\n")
    return write(f"{info}/RECORD", "".join(f"{file},,\n" for file in listed)).parent


def test_a_release_counts_by_its_version(write: Write) -> None:
    write("rel/__init__.py", "from rel.nets import Net\n")
    write("rel/nets.py", "class Net:\n    pass\n")
    write("local.py", "import rel\n")
    install(write, "rel-dist", "1.2", ["rel/__init__.py", "rel/nets.py"])
    before = code("rel.Net", "local.Net")
    assert before["rel.Net"] == "rel-dist 1.2"
    write("rel/nets.py", "class Net:\n    x = 1\n")
    assert code("rel.Net", "local.Net") == before
    write("rel_dist-1.2.dist-info/METADATA", "Name: rel-dist\nVersion: 1.3\n")
    after = code("rel.Net", "local.Net")
    assert after["rel.Net"] == "rel-dist 1.3"
    assert after["local.Net"] != before["local.Net"]


def test_what_is_from_no_index_counts_by_its_source(write: Write) -> None:
    """Installed from a folder, code changes under one version; so does a commit's."""
    write("vcs.py", "class Net:\n    pass\n")
    url = {"url": "https://x/y", "vcs_info": {"vcs": "git", "commit_id": "0123456789abcdef"}}
    install(write, "vcs-dist", "1.0", ["vcs.py"], url)
    before = code("vcs.Net")
    assert len(before["vcs.Net"]) == 16
    (facts,) = provenance.plugins(before)
    assert facts == {
        "name": "vcs.Net", "digest": before["vcs.Net"], "distribution": "vcs-dist",
        "version": "1.0", "commit": "0123456789ab",
    }  # fmt: skip
    write("vcs.py", "class Net:\n    x = 1\n")
    assert code("vcs.Net") != before


def test_a_file_that_shadows_an_installed_one_is_no_release(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("rel.py", "class Net:\n    pass\n")
    install(write, "rel-dist", "1.2", ["rel.py"])
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "rel.py").write_text("class Net:\n    mine = 1\n")
    monkeypatch.syspath_prepend(tmp_path / "first")
    forget()
    assert len(code("rel.Net")["rel.Net"]) == 16


def test_metadata_of_a_source_folder_make_no_release(write: Write) -> None:
    """``pip install -e .`` of old leaves them beside the sources."""
    write("dev.py", "class Net:\n    pass\n")
    write("dev_dist.egg-info/PKG-INFO", "Metadata-Version: 2.1\nName: dev-dist\nVersion: 1.0\n")
    write("dev_dist.egg-info/top_level.txt", "dev\n")
    write("dev_dist.egg-info/SOURCES.txt", "dev.py\n")
    found = code("dev.Net")
    assert len(found["dev.Net"]) == 16


def test_short_names_are_those_of_plugins(write: Write) -> None:
    write("plug/__init__.py", "from .kd import OwnKD\n")
    write("plug/kd.py", "class OwnKD:\n    pass\n\n\ndef joint():\n    pass\n")
    files = ["plug/__init__.py", "plug/kd.py"]
    info = install(write, "plug-dist", "2.0", files, group="plug = plug")
    assert code("OwnKD", "joint", "KD") == {"OwnKD": "plug-dist 2.0"}
    (info / "direct_url.json").write_text(json.dumps({"url": "file:///x", "dir_info": {}}))
    forget()
    before = code("OwnKD")
    assert before.keys() == {"OwnKD"}
    write("plug/kd.py", "class OwnKD:\n    x = 1\n")
    assert code("OwnKD") != before


def test_a_plugin_does_not_change_what_the_package_calls_by_a_name_of_its_own(write: Write) -> None:
    write(
        "plug.py", "class KD:\n    pass\n\n\nclass MLPClassifier:\n    pass\n\n\nclass OwnKD: ...\n"
    )
    install(write, "plug-dist", "2.0", ["plug.py"], group="plug = plug")
    assert code("KD", "MLPClassifier", "OwnKD") == {"OwnKD": "plug-dist 2.0"}


def test_an_editable_distribution_is_named(write: Write, tmp_path: Path) -> None:
    write("edited.py", "class Net:\n    pass\n")
    url = {"url": (tmp_path / "importable").as_uri(), "dir_info": {"editable": True}}
    install(write, "edited-dist", "0.3", ["edited-dist.pth"], url)
    (facts,) = provenance.plugins(code("edited.Net"))
    assert (facts["distribution"], facts["version"]) == ("edited-dist", "0.3")
    assert len(str(facts["digest"])) == 16


# -- commits -------------------------------------------------------------------------------------


def git(folder: Path, *words: str) -> str:
    user = ["-c", "user.email=a@b.c", "-c", "user.name=n"]
    done = subprocess.run(
        ["git", *user, "-C", str(folder), *words], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def commit(folder: Path, *files: str) -> str:
    git(folder, "add", *files)
    git(folder, "commit", "-q", "-m", "x")
    return git(folder, "rev-parse", "--short=12", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    return folder


def checkout(folder: Path, name: str) -> Path:
    """A copy of a project, as far as commits need it."""
    (folder / "pkg").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(f'[build-system]\n\n[project]\nname = "{name}"\n')
    file = folder / "pkg" / "code.py"
    file.write_text("")
    return file


def test_the_commit_is_that_of_the_projects_own_checkout(repository: Path) -> None:
    file = checkout(repository, "NTDH_bench")
    made = commit(repository, "pyproject.toml", "pkg")
    assert provenance._checkout_commit(file, "ntdh-bench") == made
    forget()
    file.write_text("x = 1\n")
    assert provenance._checkout_commit(file, "ntdh-bench") == f"{made}+"
    assert provenance._checkout_commit(file, "another") is None


def test_an_enclosing_repository_is_no_provenance(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "thesis.tex").write_text("x")
    commit(repository, "thesis.tex")
    file = checkout(repository / "lib", "ntdh-bench")
    assert provenance._checkout_commit(file, "ntdh-bench") is None  # below, not tracked
    commit(repository, "lib")
    forget()
    assert provenance._checkout_commit(file, "ntdh-bench") is None  # a copy in another project
    alone = checkout(tmp_path / "alone", "ntdh-bench")
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))  # as in a hook
    monkeypatch.setenv("GIT_WORK_TREE", str(repository))
    assert provenance._checkout_commit(alone, "ntdh-bench") is None


def test_a_loose_module_has_the_commit_of_the_repository_that_tracks_it(repository: Path) -> None:
    (repository / "net.py").write_text("")
    (repository / "draft.py").write_text("")
    made = commit(repository, "net.py")
    assert provenance._checkout_commit(repository / "net.py", None) == made
    assert provenance._checkout_commit(repository / "draft.py", None) is None


def test_nothing_here_imports_torch() -> None:
    code = (
        "import sys\nfrom ntdh_bench import provenance\n"
        "provenance.code_of(['torch.optim.SGD', 'lightning.pytorch.Trainer', 'pytest.fixture'])\n"
        "provenance.own_commit()\n"
        "assert not {'torch', 'lightning', 'numpy', 'pytest'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
