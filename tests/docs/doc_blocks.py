"""Reads the fenced blocks of a Markdown page, and the `diptych` command lines in them.

What the words behind a fence mean:

- ```` ```bash test ```` is run; ```` ```bash test fails ```` must end with a status other than 0
- ```` ```text output ```` right behind such a block is what it prints
- ```` ```python test ```` is run by the interpreter
- ```` ```yaml file=NAME ```` is written to a file of that name

All of a page happens in one temporary directory, in order. Other bash blocks are not run, but every `diptych`
and `make` line in any bash block must parse.
"""

import re
import shlex
from dataclasses import dataclass

FENCE = re.compile(
    r"^(?P<fence>```+)(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=fence)[ ]*$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    language: str
    words: tuple[str, ...]
    body: str
    line: int

    @property
    def file(self) -> str | None:
        """The NAME of a `file=NAME` word."""
        return next((word.partition("=")[2] for word in self.words if word.startswith("file=")), None)


def read_blocks(text: str) -> list[Block]:
    blocks = []
    for match in FENCE.finditer(text):
        language, *words = match["info"].split() or [""]
        blocks.append(Block(language, tuple(words), match["body"], text[: match.start()].count("\n") + 1))
    return blocks


def command_lines(block: Block, program: str) -> list[list[str]]:
    """Return the arguments of every call of `program` in a bash block."""
    lines = block.body.replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&<>")
        lexer.whitespace_split = True
        command: list[str] = []
        for token in [*lexer, ";"]:
            if set(token) <= set("|;&<>"):
                if command and command[0] == program:
                    found.append(command[1:])
                command = []
            else:
                command.append(token)
    return found
