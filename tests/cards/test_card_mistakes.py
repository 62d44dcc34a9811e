"""What `diptych data prepare` answers to the mistakes that users make: what, where, what instead."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from diptych.cli.main import run
from diptych.data.prepare import load_card, make_miniature

HTML = b"<html>too many requests</html>"


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def answer(capsys: pytest.CaptureFixture[str], card: str, *arguments: str, status: int = 1) -> str:
    """Return the error of a preparation; nothing else is printed, and no dataset is written."""
    assert run(["data", "prepare", card, "--out", "out", "--workers", "1", *arguments]) == status
    said = capsys.readouterr()
    assert said.out == ""
    assert not Path("out/dataset.json").exists()
    assert said.err.startswith("error: ")
    return said.err.removeprefix("error: ").removesuffix("\n")


def raw(card: str, layout: str = "", to: str = "raw") -> Path:
    make_miniature(load_card(card), Path(to), layout)
    return Path(to)


def test_no_raw_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "coco-caption", status=2) == (
        "card 'coco-caption' needs its raw files: give their folder with --raw "
        "(`diptych data show coco-caption` says where to get them)"
    )
    assert answer(capsys, "coco-caption", "--raw", "raw", status=2) == "--raw raw does not exist"
    Path("file.zip").touch()
    assert answer(capsys, "nlvr2", "--raw", "file.zip", status=2) == (
        "--raw file.zip is a file: give the folder that it lies in"
    )


def test_another_folder(capsys: pytest.CaptureFixture[str]) -> None:
    raw("cc12m")
    assert answer(capsys, "cc3m", "--raw", "raw") == (
        "raw lacks Train_GCC-training.tsv or Train-GCC-training.tsv or cc3m.tsv of card 'cc3m' "
        "(`diptych data show cc3m` says where to get them)"
    )


def test_the_folder_above_or_below(capsys: pytest.CaptureFixture[str]) -> None:
    raw("didemo", to="data/didemo")
    assert answer(capsys, "didemo", "--raw", "data").endswith(
        "; they are in data/didemo: give that with --raw"
    )
    above = Path("data/didemo").resolve()
    assert answer(capsys, "didemo", "--raw", "data/didemo/videos").endswith(
        f"; they are in {above}: give that with --raw"
    )


def test_files_of_another_layout(capsys: pytest.CaptureFixture[str]) -> None:
    raw("msr-vtt", "uniperceiver")
    assert answer(capsys, "msr-vtt", "--raw", "raw").endswith(
        "; the files of another layout are there: try again with --layout uniperceiver"
    )
    raw("flickr30k", to="plain")
    assert answer(capsys, "flickr30k", "--raw", "plain", "--layout", "uniperceiver").endswith(
        "; the files of another layout are there: try again without --layout"
    )


def test_names_that_are_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    raw("vqa-v2")
    assert answer(capsys, "vqa-v3", status=2).startswith(
        "unknown dataset card 'vqa-v3'; did you mean 'vqa-v2'?"
    )
    assert answer(capsys, "vqa-v2", "--raw", "raw", "--layout", "uniperciver", status=2) == (
        "card 'vqa-v2' has no layout 'uniperciver'; did you mean 'uniperceiver'? (layouts: uniperceiver)"
    )
    assert answer(capsys, "vqa-v2", "--raw", "raw", "-o", "minval=3", status=2) == (
        "card 'vqa-v2' has no option 'minval'; did you mean 'minival'? "
        "(options: vg, vg_root, minival, answers)"
    )
    assert answer(capsys, "vqa-v2", "--raw", "raw", "-o", "minival=many", status=2) == (
        "card 'vqa-v2', option minival=many: expected a whole number from 0 to 1000000000"
    )
    assert answer(capsys, "glue", "--raw", "raw", "-o", "tasks=colla", status=2).startswith(
        "card 'glue', option tasks: unknown 'colla'; did you mean 'cola'?"
    )


def test_an_output_folder_with_other_files(capsys: pytest.CaptureFixture[str]) -> None:
    raw("nlvr2")
    Path("out").mkdir()
    Path("out/holiday.jpg").touch()
    assert answer(capsys, "nlvr2", "--raw", "raw") == (
        "out holds other files (holiday.jpg, ...) and no dataset; choose an empty folder"
    )
    assert [path.name for path in Path("out").iterdir()] == ["holiday.jpg"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def page(path: Path) -> None:
    path.write_bytes(HTML)


@pytest.mark.parametrize(
    ("card", "name", "damage", "message"),
    [
        (
            "coco-caption",
            "train2014.zip",
            cut,
            "unreadable archive: raw/train2014.zip: File is not a zip file",
        ),
        (
            "msr-vtt",
            "test_videos.zip",
            page,
            "unreadable archive: raw/test_videos.zip: is a web page, not an archive",
        ),
        (
            "flickr30k",
            "flickr30k-images.tar.gz",
            cut,
            "raw/flickr30k-images.tar.gz is damaged: Compressed file ended",
        ),
        (
            "kinetics-400",
            "train/part_0.tar.gz",
            cut,
            "raw/train/part_0.tar.gz is damaged: Compressed file ended",
        ),
    ],
)
def test_damaged_archives(
    card: str, name: str, damage: Callable[[Path], None], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(raw(card) / name)
    said = answer(capsys, card, "--raw", "raw")
    assert said.startswith(message)
    assert said.endswith("; get the file again")


JSON_MISTAKES = [
    (
        "msr-vtt",
        "train_val_videodatainfo.json",
        '{"videos": []}',
        ": expected lists `videos` and `sentences`",
    ),
    ("msr-vtt", "train_val_videodatainfo.json", '{"videos": [', " is no JSON: "),
    (
        "msvd-qa",
        "train_qa.json",
        "{}",
        ": expected a JSON list, which begins with '[', got '{'; is it the right file?",
    ),
    ("visual-genome", "region_descriptions.json", "{}", ": expected a JSON list, which begins with '['"),
    ("visual-genome", "region_descriptions.json", '[{"id": 1', ": is no JSON: "),
    ("coco-caption", "dataset_coco.json", "[]", ": expected a JSON object, which begins with '{', got '['"),
    ("coco-caption", "dataset_coco.json", '{"a": 1}', ": expected a field 'images' in the outermost object"),
    (
        "webvid",
        "results_2M_train.csv",
        "a,b\n",
        ": no column videoid, contentUrl, page_dir, name; it has a, b",
    ),
    (
        "kinetics-400",
        "annotations/train.csv",
        "id\n",
        ": no column label, youtube_id, time_start, time_end; it has id",
    ),
]


@pytest.mark.parametrize(("card", "name", "content", "message"), JSON_MISTAKES)
def test_files_of_another_form(
    card: str, name: str, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = raw(card)
    (folder / "caption_datasets.zip").unlink(missing_ok=True)
    shutil.rmtree(folder / "archives", ignore_errors=True)
    for other in folder.rglob(f"{Path(name).name}*"):
        other.unlink()  # also name.zip
    (folder / name).write_text(content)
    assert answer(capsys, card, "--raw", "raw").startswith(f"raw/{name}{message}")


def test_nothing_that_can_be_used(capsys: pytest.CaptureFixture[str]) -> None:
    folder = raw("visual-genome")
    for other in folder.glob("region_descriptions.json*"):
        other.unlink()
    (folder / "region_descriptions.json").write_text(json.dumps([1, 2]))
    said = answer(capsys, "visual-genome", "--raw", "raw")
    assert said.startswith(
        "card 'visual-genome' gave no usable sample (bad entry 2), for example region_desc"
    )
    assert said.endswith("; `diptych data show visual-genome` says what the raw files look like")
