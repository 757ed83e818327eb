"""Files of roles: the shipped ones, and every kind of mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from glamm_jax.grand.adapters import NOISE
from glamm_jax.grand.option_list import full_name, markdown_table, option_rows
from glamm_jax.grand.role_files import RoleFileError, read_roles
from glamm_jax.miniworld import EASY
from glamm_jax.miniworld.truth_folder import write_scenes

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("roles") / "scenes"
    write_scenes(folder, EASY, count=1, size=64)
    return folder / "images"


@pytest.mark.parametrize(("name", "noise"), [("oracle", "none"), ("noisy", "easy")])
def test_the_shipped_files_name_all_roles(name: str, noise: str, images: Path) -> None:
    roles = read_roles(ROOT / f"configs/annotate/{name}.toml", photographs=images)
    missing = [field for field, value in vars(roles).items() if not value]
    assert missing == ["checker"]
    assert roles.detectors["co_detr"].name == "co_detr"
    assert roles.llm is not None and roles.llm.name == "vicuna-13b"
    assert vars(roles.llm)["noise"] == NOISE[noise]


class OwnCaptioner:
    """A model of a user."""

    name, fingerprint, needs_device = "own", "own-1", False

    def __init__(self, text: str = "a dog"):
        self.text = text

    def setup(self) -> None: ...

    def __call__(self, images: object) -> list[str]:
        return [self.text]


class NoRole:
    """Something else."""


def test_a_class_of_the_user_is_imported_only_if_the_file_is_trusted(tmp_path: Path) -> None:
    path = tmp_path / "roles.toml"
    path.write_text(f'[captioners.mine]\nclass = "{__name__}:OwnCaptioner"\ntext = "a cat"\n')
    with pytest.raises(RoleFileError, match="--trust-roles"):
        read_roles(path)
    role = read_roles(path, trust=True).captioners["mine"]
    assert (role.name, vars(role)["text"]) == ("own", "a cat")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[detectors", "not a TOML file"),
        ("a = " + "[" * 5000, "not a TOML file"),
        ("[detector.a]\nclass='oracle'", r"\[detector\]: no such role; did you mean detectors?"),
        ("[detectors]\nclass='oracle'", r"\[detectors.NAME\]"),
        ("[detectors]", r"\[detectors.NAME\]"),
        ("detectors = 3", r"\[detectors\]"),
        ("[detectors.a]\nmasks=true", r"\[detectors.a\]: the class is missing: class = \"oracle\""),
        ("[detectors.a]\nclass=3", "the class is missing"),
        ("[text_parser]\n", 'class = "rules" or "spacy"'),
        ("[text_parser]\nclass='oracle'", "neither rules nor spacy"),
        ("[llm]\nclass='vicuna'", r"\[llm\]: class = 'vicuna' is neither oracle nor"),
        ("[detectors.a]\nclass='oracle'\nmask=true", "no key 'mask'; did you mean masks?"),
        ("[captioners.a]\nclass='oracle'\nstyle='x'", r"\[captioners.a\]: KeyError"),
        ("[oracle]\nfoldr='x'", r"\[oracle\]: no key 'foldr'; did you mean folder?"),
        ("[oracle]\nfolder=3", "folder = 3 is not a text"),
        ("[oracle]\nnoise='loud'", "choose from none, easy, hard"),
        ("[oracle]\nnoise=3", "neither a name nor a table"),
        ("[oracle]\nnoise={mises=0.1}", "noise has no key 'mises'; did you mean misses?"),
        ("[oracle]\nnoise={misses='a'}", "misses = .* is not a number"),
        ("[oracle]\nnoise={misses=2}", "misses"),
        ("[oracle]\nfolder='nowhere'\n[llm]\nclass='oracle'", r"\[llm\]: .*nowhere"),
        ("[llm]\nclass='nowhere.at_all:Model'", r"\[llm\]: .* cannot be imported: ModuleNotFound"),
        (f"[llm]\nclass='{__name__}:Missing'", "cannot be imported: AttributeError"),
        (f"[llm]\nclass='{__name__}:ROOT'", "is not a class"),
        (f"[llm]\nclass='{__name__}:NoRole'", "the model has no 'name'"),
        (f"[llm]\nclass='{__name__}:OwnCaptioner'\ntxt='a'", "no key 'txt'; did you mean text?"),
    ],
)
def test_a_mistake_is_an_error_that_names_file_and_table(
    text: str, message: str, images: Path, tmp_path: Path
) -> None:
    path = tmp_path / "roles.toml"
    path.write_text(text)
    with pytest.raises(RoleFileError, match=message) as error:
        read_roles(path, photographs=images, trust=True)
    assert str(path) in str(error.value)


def test_without_photographs_an_oracle_needs_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "roles.toml"
    path.write_text('[llm]\nclass = "oracle"\n')
    with pytest.raises(RoleFileError, match="the folder of the scenes is missing"):
        read_roles(path)
    with pytest.raises(RoleFileError, match="no such file"):
        read_roles(tmp_path / "none.toml")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RoleFileError, match="not a TOML file"):
        read_roles(path)


# ------------------------------------------------------------------ the list of options


def test_every_option_has_a_description() -> None:
    rows = {row.name: row for row in option_rows()}
    assert [row.name for row in rows.values() if not row.description] == []
    row = rows["fusion.min_sources"]
    assert (dict(row.values), row.differs) == ({"paper": "3", "released": "2"}, True)
    assert not rows["merge.nms_iou"].differs


def test_the_prefix_of_bookkeeping_options_may_be_left_out() -> None:
    assert full_name("fusion.iou=0.5") == "steps.fusion.iou=0.5"
    assert full_name("steps.fusion.iou=0.5") == "steps.fusion.iou=0.5"
    assert full_name("verification.enabled=false") == "verification.enabled=false"


def test_the_table_in_the_documentation_is_that_of_the_presets() -> None:
    table = markdown_table([row for row in option_rows() if row.differs])
    assert table in (ROOT / "docs" / "annotate.md").read_text(encoding="utf-8")
