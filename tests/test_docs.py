"""Check that README.md and docs/ refer to what exists."""

import re

import pytest

from blitz.config.paths import PROJECT

PAGES = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("*.md"))]


def paths_of_the_map():
    """Yield the paths that the README's map describes. Two spaces of indentation are one level."""
    block = re.search(r"^## The map\n+```\n(.*?)^```", (PROJECT / "README.md").read_text("utf-8"), re.M | re.S)[1]
    parents = []
    for line in block.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        for name in re.split(r"  +", line.strip())[0].split():
            path = "".join([*parents[:depth], name])
            if name.endswith("/"):
                parents[depth:] = [name]
            yield path


def test_map_describes_every_module():
    modules = {str(path.relative_to(PROJECT).as_posix()) for path in (PROJECT / "src" / "blitz").rglob("*.py")}
    described = {path for path in paths_of_the_map() if path.startswith("src/blitz/") and path.endswith(".py")}
    assert described == {path for path in modules if not path.endswith("__init__.py")}


def test_map_describes_every_config_group():
    groups = {f"configs/{path.name}/" for path in (PROJECT / "configs").iterdir() if path.is_dir()}
    assert groups <= set(paths_of_the_map())


def test_paths_of_the_map_exist():
    assert [path for path in paths_of_the_map() if not (PROJECT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []
