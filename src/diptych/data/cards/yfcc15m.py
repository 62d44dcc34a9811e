"""The `yfcc15m` card: the photos of YFCC100M with an English title or description that CLIP was trained "
"on."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diptych.data.cards.base import Card, Layout, LeftOut, Source, Split, Unread
from diptych.data.cards.options import Options
from diptych.data.cards.url_sets import (
    COLUMNS_OPTION,
    FETCHED,
    FETCHED_TEXT,
    check_media,
    entries_of,
    from_fetched,
    needed,
    placed,
)
from diptych.data.members import clean_key
from diptych.data.raw.folder import INSIDE, RawFolder
from diptych.data.raw.list_yfcc import METADATA, PARTS, SUBSET, clean_text
from diptych.data.raw.listed import Listed, need
from diptych.data.raw.refs import Ref
from diptych.data.raw.url_lists import listed
from diptych.data.sample import Sample

OPTIONS = {**COLUMNS_OPTION}
TREE = "yfcc/yfcc100m_subset_available_untokenized.json"
WITHOUT_TEXT = "image"
"""Caption of a photo with neither title nor description."""
FOLDERS = ("images", "images.zip", "images.tar")
TERMS = ("licence_url", "user", "user_id", "page_url")
"""What a photo's licence asks to be named; one entry `source` of the facts."""

_CARD = "yfcc15m"
_ENCODED = re.compile(r"\w\+\w|%[0-9A-Fa-f]{2}")


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | LeftOut]:
    """Yield a sample for each photo of the subset that is there, in the order of the metadata.

    Raises:
        UsageError: a wrong option.
        DataError: a list, or all the photos, are missing.
    """
    folder = needed(raw, _CARD)
    Options(_CARD, options, OPTIONS)
    check_media(folder, _CARD, "train", *FOLDERS)
    files = RawFolder(folder)
    for row in listed(_CARD, folder):
        made = placed(row, None if row.problem else _find(files, row), "picture")
        yield _with_texts(made, row.url, row.more) if isinstance(made, Unread) else made


def _find(files: RawFolder, row: Listed) -> Ref | None:
    """Look for a photo under its hash as the public bucket has it, flat, and under its id."""
    name = row.file.removeprefix("images/")
    base, extension = name.rpartition("/")[2], name.rpartition(".")[2]
    names = [name, f"{name.rpartition('.')[0]}.jpg", base] if name else []
    names += [f"{row.id}.{ending}" for ending in dict.fromkeys((extension or "jpg", "jpg"))]
    places = [f"images/{n}" for n in dict.fromkeys(names)]
    return files.find(*places, *(f"{f}{INSIDE}{n}" for f in FOLDERS[1:] for n in dict.fromkeys(names)))


def _with_texts(made: Unread, url: str, about: Mapping[str, Any], **more: Any) -> Unread:
    """Return the sample with title and description as captions, its terms, and further facts."""
    texts = {name: str(about.get(name) or "") for name in ("title", "description")}
    captions = tuple(dict.fromkeys(text for text in texts.values() if text)) or (WITHOUT_TEXT,)
    meta: dict[str, Any] = {
        "url": url,
        "licence": str(about.get("licence") or ""),
        # In entries of their own: a column of the index would hold every text a second time.
        "texts": texts,
        "source": {name: str(about.get(name) or "") for name in TERMS},
        **more,
    }
    sample = made.sample
    return Unread(Sample(sample.key, {}, captions, "", sample.split, meta), made.refs)


def convert_fetched(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | LeftOut]:
    """Yield the samples of a download tool's shards; the columns `id`, `title`, ... are those of our list.

    Raises:
        UsageError: a wrong option.
        DataError: there are no shards.
    """
    for found in from_fetched(_CARD, raw, options, OPTIONS, "picture"):
        if isinstance(found, LeftOut):
            yield found
            continue
        sample, meta = found
        key = clean_key(sample.text("id", "photo_id", "photoid")) or sample.key
        about: dict[str, Any] = {
            **sample.side,
            "title": clean_title(sample.side.get("title")),
            "description": clean_title(sample.side.get("description")),
        }
        if not about["title"] and not about["description"] and sample.captions:
            about["title"] = sample.captions[0]
        made = Unread(Sample(key, {}, (), "", sample.split), dict([sample.medium]))
        yield _with_texts(made, meta.pop("url"), about, **meta)


def clean_title(text: object) -> str:
    """Return a title or description of another's list; a text that still is URL-encoded is decoded."""
    if not isinstance(text, str):
        return ""
    # Decoding twice would turn every plus of a clean text into a blank.
    encoded = " " not in text.strip() and _ENCODED.search(text)
    return clean_text(text if encoded else text.replace("%", "%25").replace("+", "%2B"))


def convert_tree(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | LeftOut]:
    """Yield the samples of Uni-Perceiver's list.

    Raises:
        UsageError: a wrong option.
        DataError: the list is missing.
    """
    folder = needed(raw, _CARD)
    Options(_CARD, options, OPTIONS)
    path = need(folder, _CARD, TREE, "yfcc/*.json")
    files = RawFolder(folder)
    for number, entry in entries_of(path):
        image = entry.get("image")
        if not isinstance(image, str) or not image.strip():
            place = f"{path.name}, line {number + 1}"
            yield LeftOut("bad entry", place, str(entry.get("problem") or "no 'image'"))
            continue
        name = image.strip().removeprefix("./")
        plain = name.replace(".zip@", "")
        key = clean_key(plain.rpartition("/")[2].rpartition(".")[0])
        made = placed(
            Listed(key, "", "", "train", plain), files.find(f"yfcc/{plain}", f"yfcc/{name}"), "picture"
        )
        if isinstance(made, LeftOut):
            yield made
            continue
        about = {n: clean_title(entry.get(n)) for n in ("title", "description")}
        if not any(about.values()):
            about["title"] = clean_title(entry.get("caption"))
        yield _with_texts(made, "", about)


CARD = Card(
    name=_CARD,
    title="YFCC15M: captioned photos of YFCC100M",
    description=(
        "The 14.8 million photos among the 100 million of YFCC100M (Flickr, Creative Commons) that have "
        "a title "
        "or description in English, as chosen for CLIP. Each photo has a licence of its own, which stays "
        "with it."
    ),
    licence=(
        "each photo its own Creative Commons licence: column `licence`, with what it asks to be named in "
        "the entry "
        "`source`; terms of the metadata as its owners state them. Check the homepage."
    ),
    convert=convert,
    splits={"train": Split("split = 'train'", 14_829_396, "photos of the subset", about=True)},
    sources=(
        Source(
            SUBSET,
            "the list of the subset, from the repository of CLIP (`line number TAB photo id TAB hash`)",
            alternatives=(SUBSET.removesuffix(".bz2"),),
        ),
        Source(
            METADATA[0],
            "the homepage: metadata of all photos, bzip2 TSV of 23 or 25 columns (first release: ten parts)",
            alternatives=(*METADATA[1:], PARTS),
        ),
        Source(
            "images",
            "what was fetched: `images/abc/def/<hash>.jpg` as in the public bucket, or flat by hash or "
            "photo id",
            alternatives=FOLDERS[1:],
        ),
    ),
    options=OPTIONS,
    citation=(
        "Thomee, Shamma, Friedland, Elizalde, Ni, Poland, Borth, Li: YFCC100M: The New Data in Multimedia "
        "Research. Communications of the ACM 59(2), 2016. Subset: Radford et al.: Learning Transferable "
        "Visual "
        "Models From Natural Language Supervision. ICML 2021."
    ),
    homepage="https://multimediacommons.wordpress.com/yfcc100m-core-dataset/",
    layouts={
        "fetched": Layout(
            f"{FETCHED_TEXT} The columns `id`, `title`, `description` and `licence` of our list are used.",
            convert_fetched,
            (FETCHED,),
        ),
        "uniperceiver": Layout(
            "The data folder of Uni-Perceiver: `yfcc/yfcc100m_subset_available_untokenized.json` (JSON "
            "lines with "
            "`image`, `caption`, `title`, `description`) and the photos it names below `yfcc/`. `--raw` is "
            "DATA_PATH.",
            convert_tree,
            (Source(TREE, "Uni-Perceiver", alternatives=("yfcc/*.json",)),),
        ),
    },
    target_set="vocabulary",
    prepared=(
        "Key: the photo's id (layout `uniperceiver`: its name). Captions: title, description, as far as "
        "they are "
        f"there and differ; `{WITHOUT_TEXT}` where both are empty. Columns: `url`, `licence`. Entries: "
        "`texts` "
        "(`title`, `description`), `source` (`licence_url`, `user`, `user_id`, `page_url`)."
    ),
    oddities=(
        "- Text columns are URL-encoded with `+` for a blank; they are decoded after the line was split.\n"
        "- HTML in descriptions: entities become characters, tags go, their content stays; line ends become "
        "blanks, control characters go.\n"
        "- The first release has 23 columns, the later one a line number in front and a hash behind the id.\n"
        "- Videos are counted as `no photo`.\n"
        "- Titles are often file names (`IMG_0520`); they stay. Uni-Perceiver draws title or description "
        "with "
        "equal chances, takes the other one if it is empty, and the word `image` if both are."
    ),
    miniature="diptych.data.miniatures.yfcc:make_yfcc15m",
)
