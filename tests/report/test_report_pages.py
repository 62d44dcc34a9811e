"""The report reads what runs leave, and nothing else."""

import io
import json
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from PIL import Image

from diptych.data.cards.base import Card, Split
from diptych.data.prepare import prepare
from diptych.data.sample import Sample
from diptych.errors import RunError
from diptych.report.collect import read_jsonl, read_run
from diptych.report.data import describe, write_data_report
from diptych.report.pages import percent, seconds
from diptych.report.plots import line_chart, smooth
from diptych.report.run import heat_map, pick_confusions, pick_examples, write_run_report

NAMES = ("red", "green", "blue", "grey", "pink", "lime")


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGBA", (16, 16), (40 * number, 200, 10, 255)).save(buffer, "webp")
    return buffer.getvalue()


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Sample]:
    for number, name in enumerate(NAMES):
        yield Sample(
            key=f"p{number}",
            media={"webp": picture(number)},
            captions=(f"<{name}> & square",),
            split="test",
            meta={"weight": number / 2, "kind": name[0]},
        )


CARD = Card(
    name="squares",
    title="Squares",
    description="",
    licence="none",
    convert=convert,
    splits={"test": Split("split = 'test'")},
    needs_raw=False,
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("squares")
    prepare(CARD, None, folder, options={}, shard_size=4, progress=None)
    return folder


def write_run(path: Path, dataset: Path, r1: float) -> Path:
    evaluation = path / "eval" / "retrieval_squares_test"
    evaluation.mkdir(parents=True)
    config = {
        "name": path.name,
        "data": {"path": str(dataset)},
        "system": {"name": "eve"},
        "task": {"name": "retrieval"},
    }
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    (path / "provenance.json").write_text(json.dumps({"data.path": "command line", "name": "default"}))
    rows = [
        {"step": s, "loss": 3.0 / s, "loss/itc": 2.0 / s, "metric/accuracy": s / 100, "cpu_seconds": 65.2}
        for s in range(1, 60)
    ]
    (path / "metrics.jsonl").write_text("\n".join(json.dumps(r) for r in rows) + '\n{"step": 6')
    both = {
        d: {"R@1": r1, "R@5": 0.5, "R@10": 1.0, "median_rank": 2} for d in ("image_to_text", "text_to_image")
    }
    metrics = {
        "task": "retrieval",
        "dataset": "squares",
        "split": "test",
        "images": 6,
        "texts": 6,
        "headline": "reranked",
        "scores": {"contrastive": both, "reranked": both},
        "chance": {d: {"R@1": 1 / 6, "R@5": 5 / 6, "R@10": 1.0} for d in both},
        "candidates": {"k": 4, "image_to_text_recall": 0.9, "text_to_image_recall": 0.8},
    }
    (evaluation / "metrics.json").write_text(json.dumps(metrics))
    texts = [f"<{name}> & square" for name in NAMES]
    lines = []
    for i, text in enumerate(texts):
        order = (
            [(i + shift) % 6 for shift in range(6)] if i % 2 else [(i + shift + 1) % 6 for shift in range(6)]
        )
        rank = order.index(i) + 1
        top = [{"id": f"p{j}", "score": 1.0 - k / 10, "right": j == i} for k, j in enumerate(order)]
        lines.append(
            {"direction": "text_to_image", "query": text, "rank": rank, "right": [f"p{i}"], "top": top}
        )
        top = [{"id": texts[j], "score": 1.0 - k / 10, "right": j == i} for k, j in enumerate(order)]
        lines.append(
            {
                "direction": "image_to_text",
                "query": f"p{i}",
                "key": f"p{i}",
                "rank": rank,
                "right": [text],
                "top": top,
            }
        )
    (evaluation / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (evaluation / "experts.json").write_text(
        json.dumps({"layers": [{"layer": 3, "image": [3, 1], "text": [0, 0]}]})
    )
    return path


class Checker(HTMLParser):
    """Counts what matters and refuses anything that would need another file."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures = 0
        self.marked = 0
        self.rows = 0
        self.charts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        for name in ("src", "href"):
            assert not (values.get(name) or "data:").startswith(("http", "/", ".")), values
        assert tag not in {"script", "link", "iframe"}
        self.pictures += tag == "img"
        self.marked += "right" in (values.get("class") or "").split() and "pic" in (values.get("class") or "")
        self.rows += tag == "tr" and (values.get("class") or "").split()[:1] in (
            ["ours"],
            ["baseline"],
            ["chance"],
        )
        self.charts += tag == "svg"


@pytest.mark.slow
def test_report_shows_results_examples_and_data(tmp_path: Path, dataset: Path) -> None:
    ours = write_run(tmp_path / "ours", dataset, 0.5)
    rival = write_run(tmp_path / "rival", dataset, 0.25)
    page = write_run_report(
        [ours], tmp_path / "report.html", baselines=[rival], labels={"rival": "two towers"}
    )
    text = page.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(text)
    assert checker.rows == 2 * (2 + 2 + 1), (
        "two directions x (two rankings of ours, two of the baseline, chance)"
    )
    assert checker.marked == 3, "odd queries find theirs first, even ones at rank 6, which is not shown"
    assert checker.charts == 4 + 2, (
        "loss and measures of two runs; two columns of the data hold numbers that differ"
    )
    assert checker.pictures >= 6 * 5
    assert "2.00×" in text
    assert "two towers, reranked" in text
    assert "&lt;red&gt; &amp; square" in text
    assert "<red>" not in text, "captions are escaped"
    assert "1 min 05 s" in text


def test_report_without_evaluation_or_data_still_works(tmp_path: Path) -> None:
    run = write_run(tmp_path / "bare", tmp_path / "gone", 0.5)
    for file in (run / "eval" / "retrieval_squares_test").iterdir():
        file.unlink()
    text = write_run_report([run], tmp_path / "out" / "r.html").read_text(encoding="utf-8")
    assert "What ran" in text
    assert "What it finds" not in text


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"config\.yaml is missing"):
        write_run_report([tmp_path], tmp_path / "r.html")
    with pytest.raises(RunError, match="at least one run"):
        write_run_report([], tmp_path / "r.html")


def test_damaged_files_are_named_and_a_cut_last_line_is_not_an_error(tmp_path: Path, dataset: Path) -> None:
    run = write_run(tmp_path / "run", dataset, 0.5)
    assert len(read_run(run).rows) == 59
    (run / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl:2"):
        read_run(run)
    (run / "environment.json").write_text("[1]")
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(RunError, match="expected a JSON object"):
        read_run(run)
    assert read_jsonl(run / "metrics.jsonl") == []


def test_examples_are_a_fixed_sample_of_text_queries_with_five_pictures() -> None:
    rows = [
        {"direction": "text_to_image", "query": str(i), "right": [], "rank": 1, "top": list(range(10))}
        for i in range(40)
    ]
    picked = pick_examples(rows, 5)
    assert picked == pick_examples(rows, 5)
    assert len({row["query"] for row in picked}) == 5
    assert all(len(row["top"]) == 5 for row in picked)


def test_confusions_are_the_wrong_ones_worst_first_with_a_picture_of_what_was_said() -> None:
    def row(key: str, right: str, said: str, rank: int) -> dict[str, object]:
        top = [{"id": said, "score": 1.0, "right": said == right}]
        return {
            "direction": "image_to_text",
            "key": key,
            "query": key,
            "right": [right],
            "rank": rank,
            "top": top,
        }

    rows = [row("a", "cat", "cat", 1), row("b", "dog", "cat", 7), row("c", "cow", "sun", 30)]
    picked = pick_confusions(rows)
    assert [r["key"] for r in picked] == ["c", "b"]
    assert picked[0]["lookalikes"] == {}, "nothing is called 'sun', so there is no picture of it"
    assert picked[1]["lookalikes"] == {"cat": "a"}


def test_heat_map_shares_by_hand() -> None:
    (layer,) = heat_map([{"layer": 2, "image": [3, 1], "text": [0, 0]}])
    assert layer["sides"] == {"image": [0.75, 0.25], "text": [0.0, 0.0]}
    assert layer["top"] == 0.75


@pytest.mark.slow
def test_data_report(tmp_path: Path, dataset: Path) -> None:
    page = write_data_report(dataset, tmp_path / "data.html")
    text = page.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(text)
    assert checker.pictures == 6
    assert "0 to 2.5, mean 1.25" in text
    from diptych.data.index import ShardDataset

    view = describe(ShardDataset.open(dataset))
    kinds = next(c for c in view.columns if c.name == "kind")
    assert kinds.values == [("g", 2), ("b", 1), ("l", 1), ("p", 1), ("r", 1)]
    assert view.splits == [("test", 6, "split = 'test'")]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0\u00a0%"),
        (0.00075, "0.07\u00a0%"),
        (0.2345, "23.4\u00a0%"),
        (1.0, "100.0\u00a0%"),
        (None, "–"),
    ],
)
def test_percent(value: float | None, text: str) -> None:
    assert percent(value) == text


def test_seconds() -> None:
    assert (seconds(41.4), seconds(65.2), seconds(None)) == ("41 s", "1 min 05 s", "–")


def test_smooth_keeps_constants_and_averages_neighbours() -> None:
    assert smooth([2.0] * 50) == pytest.approx([2.0] * 50)
    assert smooth([0.0, 3.0, 6.0])[0] == pytest.approx(1.5)
    assert smooth([0.0, 3.0, 6.0])[1] == pytest.approx(3.0)


def test_charts_scale_with_the_page_and_keep_text_as_text() -> None:
    svg = line_chart({"a": ([0, 1], [1.0, 2.0]), "b": ([0, 1], [2.0, 1.0])}, x_label="step")
    head = svg[: svg.index(">")]
    assert "viewBox" in head
    assert "width=" not in head
    assert ">step</text>" in svg
