import subprocess
import sys
from pathlib import Path

import pytest
from doc_blocks import Block, command_lines, read_blocks
from test_examples import parse

ROOT = Path(__file__).parent.parent.parent

PAGE = """# Title

```bash test fails
diptych train a.yaml "b=c d" \\
  -- e=f | tee log; diptych config keys
# diptych not this
echo diptych
```

````text
```bash
diptych inside another fence
```
````

```yaml file=x/a.yaml
a: 1
```
"""


def test_blocks_of_a_page() -> None:
    bash, text, yaml = read_blocks(PAGE)
    assert (bash.language, bash.words, bash.line) == ("bash", ("test", "fails"), 3)
    assert text.language == "text"
    assert yaml == Block("yaml", ("file=x/a.yaml",), "a: 1\n", 16)
    assert (yaml.file, bash.file) == ("x/a.yaml", None)
    assert command_lines(bash, "diptych") == [["train", "a.yaml", "b=c d", "--", "e=f"], ["config", "keys"]]


@pytest.mark.parametrize(
    "arguments",
    [["nothing"], ["config", "nothing"], ["config", "show"], ["config", "show", "x", "--nothing"]],
)
def test_a_command_line_that_does_not_parse_is_found(arguments: list[str]) -> None:
    with pytest.raises(Exception, match=r"nothing|recipe"):
        parse(arguments)


def test_a_command_line_that_parses() -> None:
    assert parse(["config", "show", "x", "a=1", "--", "b=2"])["settings"] == ["a=1", "--", "b=2"]
    assert parse(["--version"]) == {}


@pytest.mark.slow
def test_generated_pages_are_up_to_date() -> None:
    # In a process of its own: other tests put systems, tasks and cards into the tables.
    command = [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, f"run `make docs` and commit what it writes: {told.stdout}{told.stderr}"
