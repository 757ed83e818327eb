"""The commands in help texts and documentation are valid: the programs' parsers accept them."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import shlex
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from glamm_jax.cli.annotate import COMMANDS as ANNOTATE_COMMANDS
from glamm_jax.cli.annotate.run import check_driver_options
from glamm_jax.cli.convert import COMMANDS as CONVERT_COMMANDS
from glamm_jax.cli.main import COMMANDS
from glamm_jax.cli.train import load_config
from glamm_jax.config.overrides import with_overrides
from glamm_jax.data.sources.registry import datasets
from glamm_jax.evaluation.benchmarks import BENCHMARKS
from glamm_jax.evaluation.paper_tables import TABLES

ROOT = Path(__file__).resolve().parents[2]
BENCH = (
    "conversion",
    "cpu",
    "full_size",
    "gpu",
    "loader",
    "metrics",
    "miniworld",
    "mask_scores",
    "serving",
    "annotation",
    "train",
    "sharding",
    "verification",
    "compare",
    "packing",
    "attention",
)
# `python -m MODULE` -> the module with its function `parse`.
PROGRAMS = {
    **{f"bench.{name}": f"bench.{name}" for name in BENCH},
    "bench": "bench.cpu",
    "demo": "demo.__main__",
    "examples.learn_miniworld": "examples.learn_miniworld.__main__",
    "examples.photographs": "examples.photographs.__main__",
    "examples.learn_annotations": "examples.learn_annotations.__main__",
}
# `python -m MODULE` -> the equivalent command of `glamm-jax`.
ENTRY_PACKAGES = {
    "train": "train",
    "train.export": "export",
    "train.report": "report",
    "eval": "eval",
    "annotate": "annotate",
    "convert": "convert",
    "demo.app": "app",
    "demo.ask": "ask",
}
# Programs of others.
FOREIGN_MODULES = ("json.tool", "llama_cpp.server", "pip", "venv")
WITHOUT_OPTIONS = ("tests.bad_input_table", "tests.metrics_table")
HELP_MODULES = {
    "glamm-jax": "glamm_jax.cli.main",
    **{f"glamm-jax {name}": f"glamm_jax.cli.{name}" for name in COMMANDS},
    "glamm-jax eval table3": "glamm_jax.cli.eval_table",
    **{f"glamm-jax annotate {name}": module.__name__ for name, module in ANNOTATE_COMMANDS.items()},
    **{f"glamm-jax convert {name}": module.__name__ for name, module in CONVERT_COMMANDS.items()},
    **{f"python -m {name}": module for name, module in PROGRAMS.items() if name != "bench.cpu"},
}
DOCUMENTS = sorted(
    path.relative_to(ROOT)
    for pattern in (
        *("*.md", "*/README.md", "checkpoints/*/README.md", "docs/**/*.md"),
        *("docs/cloud/*.sh", "examples/notebooks/*.ipynb"),
    )
    for path in ROOT.glob(pattern)
)
# In front of a command: `!` in a notebook, `exec` in a script, environment variables, the folder of
# an environment.
COMMAND = re.compile(
    r"(?:!|exec +)?((?:\w+=\S+ +)*)(?:\.venv[\w-]*/bin/)?((?:glamm-jax|python3? -m) .*)"
)
SPAN = re.compile(r"`(?:\w+=\S+ +)*glamm-jax ([^`]+)`")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
ARRAY = re.compile(r'"\$\{\w+\[@\]\}"')  # of a script; stands for settings
SUBMITTED = re.compile(r"ray job submit .* -- +(?=glamm-jax)")


def commands_of_help(text: str) -> Iterator[str]:
    """Yield the commands of the `examples:` section, which ends at an empty line."""
    for section in re.findall(r"^examples:\n(.*?)(?:\n\n|\Z)", text, re.DOTALL | re.MULTILINE):
        yield from commands(section)


def commands_of_document(text: str) -> Iterator[str]:
    """Yield the commands of all code blocks."""
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        yield from commands(block)


def commands(text: str) -> Iterator[str]:
    """Yield the commands at the beginning of lines; a backslash continues a line."""
    for line in text.replace("\\\n", " ").splitlines():
        command = COMMAND.match(SUBMITTED.sub("", line.strip()))
        if command:
            yield ARRAY.sub("seed=1", command[1] + command[2])


def commands_of_notebook(text: str) -> Iterator[str]:
    """Yield the commands of all code cells."""
    for cell in json.loads(text)["cells"]:
        if cell["cell_type"] == "code":
            yield from commands("".join(cell["source"]))


def check(command: str) -> None:
    """Parse a command, and check the names in it.

    Raises:
        SystemExit: with another code than 0: the parser does not accept it.
    """
    # A placeholder in documents; names of buckets have no capital letters.
    words = shlex.split(command.replace("gs://BUCKET/", "gs://bucket/"), comments=True)
    while "=" in words[0]:
        words.pop(0)  # an environment variable
    if words[0] == "glamm-jax" or words[2] == "glamm_jax":
        arguments = words[1:] if words[0] == "glamm-jax" else words[3:]
        if arguments == ["--version"]:
            return
        check_arguments(arguments[0], arguments[1:])
    elif words[2] in ENTRY_PACKAGES:
        check_arguments(ENTRY_PACKAGES[words[2]], words[3:])
    elif words[2] in WITHOUT_OPTIONS:
        assert not words[3:], command
    elif words[2] in FOREIGN_MODULES:
        return
    else:
        parser_of(PROGRAMS[words[2]])(words[3:])


def check_arguments(name: str, arguments: list[str]) -> None:
    """Parse the arguments of a command of `glamm-jax`; check configurations and names."""
    if name == "eval" and arguments[0] == "compare":
        name, arguments = "compare", arguments[1:]
    assert name in COMMANDS, f"no command {name!r}"
    is_table = name == "eval" and arguments[0] in TABLES
    options = parser_of(f"glamm_jax.cli.{'eval_table' if is_table else name}")(arguments)
    if is_table:
        assert TABLES[options.table].select(options.only)
    config: Path | None = getattr(options, "config", None)
    if config is not None and config.parts[0] == "configs":
        with_overrides(load_config(ROOT / config), options.set)
    if hasattr(options, "driver"):
        check_driver_options(options)
    benchmark = getattr(options, "benchmark", "gcg")
    assert benchmark in BENCHMARKS
    if getattr(options, "command", "") == "dataset" and options.name != "NAME":
        assert options.name in datasets()
    for dataset in getattr(options, "dataset", ()):
        assert dataset.partition(":")[0] in {*datasets(), "NAME"}


def parser_of(module: str) -> Callable[[list[str]], argparse.Namespace]:
    """Return the function that parses a program's command line."""
    return import_module(module).parse


@cache
def options_of(command: str) -> frozenset[str]:
    """Return the options of a command of `glamm-jax`, such as "convert from-torch"."""
    name, *arguments = command.split()
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        parser_of(f"glamm_jax.cli.{name}")([*arguments, "--help"])
    return frozenset(OPTION.findall(text.getvalue()))


def unknown_words(span: str) -> list[str]:
    """Return what a part of a command in a code span names and the program does not have."""
    words = span.split()
    groups = {"annotate": ANNOTATE_COMMANDS, "convert": CONVERT_COMMANDS}
    if words[0] not in COMMANDS:
        return [] if words[0].isupper() or words[0].startswith("-") else words[:1]
    command = words[0]
    if words[0] in groups and words[1:] and not words[1].isupper() and words[1][0] != "-":
        if words[1] not in groups[words[0]]:
            return words[1:2]
        command = f"{words[0]} {words[1]}"
    return [option for option in OPTION.findall(span) if option not in options_of(command)]


def assert_valid(command: str) -> None:
    """Check a command; `--help` ends the parser with exit status 0."""
    status: object = 0
    try:
        check(command)
    except SystemExit as stop:
        status = stop.code
    assert status == 0, f"not accepted: {command}"


@pytest.mark.parametrize("program", HELP_MODULES)
def test_help_has_valid_examples(program: str) -> None:
    text = import_module(HELP_MODULES[program]).__doc__ or ""
    examples = [*commands_of_help(text)]
    assert 2 <= len(examples) <= 5
    assert any(f"{example} ".startswith(f"{program} ") for example in examples)
    for example in examples:
        assert_valid(example)
    if program != "glamm-jax":
        assert_valid(f"{program} --help")


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_documents_have_valid_commands(document: Path) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    readers = {".sh": commands, ".md": commands_of_document, ".ipynb": commands_of_notebook}
    for command in readers[document.suffix](text):
        assert_valid(command)


@pytest.mark.parametrize("document", [x for x in DOCUMENTS if x.suffix == ".md"], ids=str)
def test_code_spans_name_commands_and_options_that_exist(document: Path) -> None:
    spans = SPAN.findall((ROOT / document).read_text(encoding="utf-8"))
    assert not {span: unknown for span in spans if (unknown := unknown_words(span))}


def test_the_readme_names_every_command() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.partition("## Commands")[2].partition("\n## ")[0]
    named = {*re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)}
    words = {word for cell in named for word in re.findall(r"`(?:glamm-jax )?([a-z]+)`", cell)}
    assert words == {*COMMANDS}


def test_unknown_words_of_code_spans_are_found() -> None:
    assert unknown_words("ask --model M --pormpt P") == ["--pormpt"]
    assert unknown_words("convert from-troch M") == ["from-troch"]
    assert unknown_words("evaluate gcg") == ["evaluate"]
    assert unknown_words("convert dataset NAME --source DIR --check") == []


def test_commands_may_have_comments_continuations_and_variables() -> None:
    text = (
        "```sh\nA=1 python -m train --plan  # x\nglamm-jax eval gcg \\\n  --out a\nmake test\n```\n"
        '```\n!glamm-jax report a\n```\n```sh\nexec glamm-jax train --set "${x[@]}"\n```\n'
    )
    assert [*commands_of_document(text)] == [
        "A=1 python -m train --plan  # x",
        "glamm-jax eval gcg    --out a",
        "glamm-jax report a",
        "glamm-jax train --set seed=1",
    ]


@pytest.mark.parametrize(
    "command",
    [
        "glamm-jax train --config configs/tiny.py",
        "glamm-jax train --config configs/tiny.py --plan --rate 3",
        "glamm-jax eval nothing --model M --data D --out O",
        "python -m convert to-torch M",
    ],
)
def test_an_invalid_command_is_rejected(command: str) -> None:
    with pytest.raises(SystemExit) as stop:
        check(command)
    assert stop.value.code == 2


def test_an_unknown_field_is_rejected() -> None:
    with pytest.raises(ValueError, match="peak_lr"):
        check("glamm-jax train --config configs/tiny.py --plan --set optim.peak_rl=1")
