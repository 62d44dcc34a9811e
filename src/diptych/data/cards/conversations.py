"""The `conversations-json` card: files of LLaVA, InternLM-XComposer and VideoChat2, and our own form."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diptych.data.cards.base import Card, LeftOut, Unread
from diptych.data.cards.options import Options
from diptych.data.cards.xvlm_json import EXAMPLE, LISTS, SPLITS, Keys, check_options, files_of, find_picture
from diptych.data.conversation_files import FORMS, Record, read_conversations
from diptych.data.raw.refs import FileRef
from diptych.data.sample import Sample
from diptych.errors import UsageError

OPTIONS = {
    **LISTS,
    "form": f"who wrote the files: {', '.join(FORMS)} (default messages, our own)",
    "media": "folder of the media under --raw (default: --raw itself); records name them from there",
}
MISSING = {"image": "missing picture", "video": "missing video"}


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | LeftOut]:
    """Yield a sample for each conversation, in the order of the files.

    Raises:
        UsageError: a wrong option.
        DataError: a file that cannot be read, or a record that is not of the form; with its line.
    """
    if raw is None:
        raise UsageError("card 'conversations-json' needs its raw files: give their folder with --raw")
    given = check_options("conversations-json", options, OPTIONS)
    form, folder, keys = _form(given), raw / given.text("media"), Keys()
    for split, path in files_of(given, raw):
        for record in read_conversations(path, form):
            media = record.conversation.media
            key = keys.make(
                split, str(record.conversation.facts.get("id", "")), *(m.source for m in media[:2])
            )
            yield _sample(key, split, record, folder)


def _form(given: Options) -> Any:
    form = given.text("form") or "messages"
    if form not in FORMS:
        raise UsageError(f"card 'conversations-json': form = {form!r}; expected one of {', '.join(FORMS)}")
    return form


def _sample(key: str, split: str, record: Record, folder: Path) -> Unread | LeftOut:
    """Return a sample with its media in the order of the conversation, or what is missing."""
    refs: dict[str, FileRef] = {}
    media = record.conversation.media
    for number, medium in enumerate(media):
        found = find_picture(folder, medium.source) if medium.source else None
        if found is None:
            return LeftOut(
                MISSING[medium.kind], key, f"line {record.line}: {medium.source or 'a place without a file'}"
            )
        ending = Path(medium.source).suffix[1:].lower() if medium.kind == "video" else found[0]
        refs[f"{number}.{ending}" if len(media) > 1 else ending] = found[1]
    meta: dict[str, Any] = {"conversations": [record.conversation.to_json()]}
    if record.clip is not None:
        meta |= {"clip_start": record.clip[0], "clip_end": record.clip[1]}
    return Unread(Sample(key, {}, (), "", split, meta), refs)


CARD = Card(
    name="conversations-json",
    title="Conversations about pictures and videos",
    description=(
        "Instruction data in the files of others: LLaVA and Video-LLaVA (`conversations` with `<image>` and "
        "`<video>`), InternLM-XComposer (`<ImageHere>`), VideoChat2 (`QA` with `i`, `q` and `a`), or our own "
        '(`{"messages": [{"role", "content"}]}`, content a text or a list of texts, images and videos), as '
        "JSON lists or JSON lines. Every conversation becomes a sample with its media. A record that is not "
        "of the form stops the preparation with its line; one without its media is left out and counted."
    ),
    licence="that of the media and conversations",
    convert=convert,
    splits=SPLITS,
    options=OPTIONS,
    annotations=tuple(LISTS),
    example=EXAMPLE,
    prepared=(
        "- key: `<split>_<id and names of the first media>`, with a hash where two would be alike\n"
        "- media: the picture or video; `0.<ending>`, `1.<ending>`, ... where there are several\n"
        "- columns: `clip_start`, `clip_end` (seconds of a video, where the file says them)\n"
        "- in the JSON: `conversations`: one, in our own form"
    ),
    oddities=(
        "- LLaVA: a file without a mark comes before the first question\n"
        "- InternLM-XComposer: a single picture without a mark comes first\n"
        "- VideoChat2: the first instruction becomes the system's message; captions have an empty question"
    ),
    miniature="diptych.data.miniatures.conversations:make",
)
