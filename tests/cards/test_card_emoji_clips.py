"""emoji-clips: truth of every text, what mirrors prove, disjoint splits, balance, purity, pixels, video."""

import io
import json
import re
from collections import Counter, defaultdict
from itertools import pairwise

import av
import numpy as np
import pytest
import torch
from clip_judge import answer, check_caption, events

from diptych.data.cards.emoji_clips import CARD
from diptych.data.cards.emoji_clips_choices import choices
from diptych.data.cards.emoji_clips_draw import progress
from diptych.data.cards.emoji_clips_plan import draw_clip
from diptych.data.cards.emoji_clips_questions import ORDERED, UNORDERED, questions
from diptych.data.cards.emoji_clips_raw import ANIMATED
from diptych.data.cards.emoji_clips_text import captions
from diptych.data.cards.emoji_scenes import load_sprites, spread
from diptych.data.cards.scenes_layout import COLORS, SPLITS, Draws, split_of_combination
from diptych.data.cards.sprites import STYLES, shipped
from diptych.data.config import DataConfig
from diptych.data.index import ShardDataset
from diptych.data.loader import evaluation_batches
from diptych.data.shards import ShardWriter
from diptych.errors import DataError, UsageError


@pytest.fixture(scope="module")
def sprites():
    return load_sprites(shipped())


@pytest.fixture(scope="module")
def pairs(sprites):
    """Clip and mirror of 600 pairs, each with its questions and choices; 12 kinds of emoji."""
    items, found = spread(sprites.items, 12), []
    for number in range(600):
        clip = draw_clip(3, number, items, ("noto",), 4)
        asked = questions(clip, items, Draws(f"q{number}"))
        offered = choices(clip, items, Draws(f"c{number}"))
        found.append([(c, asked[i], offered[i]) for i, c in enumerate((clip, clip.reversed()))])
    return found


@pytest.fixture(scope="module")
def samples():
    return list(CARD.convert(None, {"size": "40", "resolution": "32", "kinds": "12"}))


def decoded(sample):
    with av.open(io.BytesIO(sample.media["mp4"])) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


# --- truth


@pytest.mark.slow
def test_every_answer_is_right(pairs):
    asked = 0
    for clip, entries, _ in (side for pair in pairs for side in pair):
        for row in entries:
            assert answer(row["question"], clip.layout()) == row["answer"], row
            asked += 1
    assert asked > 5 * 1200


def test_every_kind_is_asked(pairs):
    seen = {row["kind"] for pair in pairs for row in pair[0][1]}
    assert seen == set(ORDERED) | set(UNORDERED)
    ordered = Counter(row["ordered"] for pair in pairs for row in pair[0][1])
    assert 0.4 < ordered[True] / ordered.total() < 0.6


def test_every_caption_is_true_and_complete(pairs):
    for clip, *_ in (side for pair in pairs for side in pair):
        whole, other_way, plain = captions(clip)
        check_caption(whole, clip.layout())
        check_caption(other_way, clip.layout())
        for thing in clip.still:
            whole = re.sub(rf"({thing.item.noun.singular}) on an? {thing.color} tile", r"\1", whole)
        assert plain == whole


def test_the_judge_can_say_no(pairs):
    for (clip, *_), (mirror, *_) in pairs:
        for text in captions(mirror)[:2]:
            with pytest.raises(AssertionError):
                check_caption(text, clip.layout())


def test_choices_have_one_right_option(pairs):
    for clip, _, entries in (side for pair in pairs for side in pair):
        for row in entries:
            assert len(set(row["options"])) == 5
            if row["kind"] == "action":
                name = re.fullmatch(r"What does the (.+) do( first)?\?", row["question"])[1]
                thing = next(t for t in clip.layout()["things"] if t["states"][0]["name"] == name)
                done = next(e for e in events(thing) if e)
                assert row["options"][row["answer"]] == done
                assert len(_part(thing)) == 1 or "first" in row["question"]
            else:
                assert row["options"][row["answer"]] == captions(clip)[0]


def _part(thing):
    return [e for e in events(thing) if e]


def test_layouts_are_sound(pairs):
    for clip, *_ in (side for pair in pairs for side in pair):
        layout = json.loads(json.dumps(clip.layout()))
        things = layout["things"]
        assert 2 <= len(things) <= 4
        assert len({t["color"] for t in things}) == len(things)
        acting = [t for t in things if any(events(t))]
        assert len(acting) == (1 if clip.form == "one" else 2) or (clip.form, len(acting)) == ("two", 1)
        crossed = Counter(cell for t in things for cell in _cells(t))
        assert max(crossed.values()) == 1, "things meet"
        assert len({s["concept"] for t in things for s in t["states"]}) == len(set(clip.items))


def _cells(thing):
    rows, columns = ([s[f] for s in thing["states"]] for f in ("row", "column"))
    assert len(set(rows)) == 1 or len(set(columns)) == 1
    assert 0 <= min(rows + columns) <= max(rows + columns) <= 2
    return {(r, c) for r in range(min(rows), max(rows) + 1) for c in range(min(columns), max(columns) + 1)}


# --- order


def test_the_order_of_frames_decides_what_is_ordered(pairs):
    """Both clips of a pair are asked the same; the answer differs exactly where it is said to."""
    for (clip, asked, offered), (mirror, asked_too, offered_too) in pairs:
        assert mirror.reversed() == clip != mirror
        for one, other in zip(asked, asked_too, strict=True):
            assert (one["question"], one["kind"]) == (other["question"], other["kind"])
            assert (one["answer"] != other["answer"]) is one["ordered"] is other["ordered"]
        for one, other in zip(offered, offered_too, strict=True):
            assert (one["question"], one["kind"]) == (other["question"], other["kind"])
            assert one["ordered"] is other["ordered"] is (one["kind"] != "looks")
            if one["ordered"]:
                assert one["options"] == other["options"]
                assert one["answer"] != other["answer"]
            else:
                assert one["answer"] == other["answer"]


@pytest.mark.slow
def test_a_clip_and_its_mirror_show_the_same_frames(samples):
    for clip, mirror in zip(samples[::2], samples[1::2], strict=True):
        frames, others = decoded(clip), decoded(mirror)
        assert len(frames) == 15
        assert all(np.array_equal(a, b) for a, b in zip(frames, others[::-1], strict=True))
        assert not np.array_equal(frames, others)
        assert (clip.meta["mirror"], mirror.meta["mirror"]) == (mirror.key, clip.key)
        # Frames in the middle of N equal segments: the same ones, in the other order.
        for count in (1, 2, 3, 4, 5, 8):
            chosen = [int((i + 0.5) * 15 / count) for i in range(count)]
            mirrored = [others[i] for i in chosen][::-1]
            assert all(np.array_equal(frames[i], other) for i, other in zip(chosen, mirrored, strict=True))


@pytest.mark.parametrize("frames", [1, 3, 5, 15])
def test_the_loader_sees_the_same_frames_of_both(samples, tmp_path, frames):
    """Frames in the middles of equal parts, of 15 frames: in reverse those of the mirror."""
    with ShardWriter(tmp_path / "clips", "emoji-clips", 100) as writer:
        for sample in samples[:8]:
            writer.write(sample)
    config = DataConfig.model_validate(
        {"image": {"size": 32}, "video": {"frames": frames, "policy": "segments"}}
    )
    (batch,) = evaluation_batches(ShardDataset.open(tmp_path / "clips").select(), config, 8)
    assert batch.images.shape == (8, frames, 3, 32, 32)
    for clip, mirror in zip(batch.images[::2], batch.images[1::2], strict=True):
        assert torch.equal(clip, mirror.flip(0))
        assert torch.equal(clip, mirror) is (frames == 1)


@pytest.mark.slow
def test_who_does_not_see_the_order_gets_half(samples):
    """The best there is without order: for the same frames and question the most frequent answer."""
    for kind in ("questions", "choices"):
        answers = defaultdict(Counter)
        for sample in samples:
            frames = frozenset(frame.tobytes() for frame in decoded(sample))
            for row in sample.meta[kind]:
                asked = (frames, row["question"], *row.get("options", ()))
                answers[row["ordered"], asked][row["answer"]] += 1
        share = {
            ordered: sum(max(c.values()) for (o, _), c in answers.items() if o is ordered)
            / sum(c.total() for (o, _), c in answers.items() if o is ordered)
            for ordered in (True, False)
        }
        assert share == {True: 0.5, False: 1.0}


@pytest.mark.parametrize("frames", [5, 6, 15, 16])
@pytest.mark.parametrize("parts", [1, 2])
def test_progress_is_the_same_backwards(frames, parts):
    found = progress(frames, parts)
    assert len(found) == parts
    for part in found:
        assert part[0] == 0.0
        assert part[-1] == 1.0
        assert all(a <= b for a, b in pairwise(part))
    backwards = [[1 - share for share in part[::-1]] for part in found[::-1]]
    assert np.allclose(found, backwards)
    middle = [part[frames // 2] for part in found]
    assert np.allclose(middle, [part[(frames - 1) // 2] for part in found])
    assert np.allclose(middle, [0.5] if parts == 1 else [1, 0])


def test_progress_by_hand():
    assert progress(5, 1) == [[0, 0.25, 0.5, 0.75, 1]]
    assert progress(6, 1) == [[0, 0.25, 0.5, 0.5, 0.75, 1]]
    assert progress(5, 2) == [[0, 0.5, 1, 1, 1], [0, 0, 0, 0.5, 1]]
    assert progress(6, 2) == [[0, 0.5, 1, 1, 1, 1], [0, 0, 0, 0, 0.5, 1]]


# --- splits and balance


def test_splits_share_no_combination_whatever_the_seed(sprites):
    items, owners = spread(sprites.items, 12), defaultdict(set)
    for seed in (0, 1, 99):
        for pair in range(150):
            clip = draw_clip(seed, pair, items, STYLES, 3)
            assert clip.combination == clip.reversed().combination
            owners[clip.combination].add(SPLITS[pair % 10])
    assert {len(splits) for splits in owners.values()} == {1}
    assert all(split_of_combination(text) in splits for text, splits in owners.items())


def test_split_sizes(samples):
    assert Counter(s.split for s in samples) == {"train": 32, "val": 4, "test": 4}
    assert all(a.split == b.split for a, b in zip(samples[::2], samples[1::2], strict=True))


def test_captions_tell_the_clips_of_a_test_split_apart(sprites):
    items = spread(sprites.items, 12)
    clips = [draw_clip(0, pair, items, ("noto",), 3) for pair in range(9, 5000, 10)]
    texts = list(zip(*(captions(side) for clip in clips for side in (clip, clip.reversed())), strict=True))
    assert len(texts[0]) == 1000
    several = [sum(n for n in Counter(told).values() if n > 1) for told in texts]
    assert max(several[:2]) <= 4
    assert several[2] <= 60


# A count that should be n has a standard deviation below sqrt(n), or sqrt(2 n) where the two clips of a pair
# have the same answer. Four of them are allowed.
@pytest.mark.parametrize(
    ("kind", "answers"),
    [
        ("direction", 4), ("spin", 2), ("size", 2), ("sight", 2), ("before", 2), ("check", 2),
        ("presence", 2), ("stays", 2), ("count", 3), ("color", len(COLORS)),
    ],
)  # fmt: skip
def test_answers_are_balanced(pairs, kind, answers):
    counts = Counter(
        row["answer"] for pair in pairs for side in pair for row in side[1] if row["kind"] == kind
    )
    assert len(counts) == answers
    even = counts.total() / answers
    # A still thing needs room: clips with many are a little rarer.
    slack = 0.15 * even if kind in ("count", "stays") else 0.0
    assert max(abs(n - even) for n in counts.values()) <= 4 * (2 * even) ** 0.5 + slack


@pytest.mark.parametrize(
    "kind", ["place", "tile_at", "first", "does_first", "who", "on_color", "still", "actor"]
)
def test_no_answer_is_right_too_often(pairs, kind):
    counts = Counter(
        row["answer"] for pair in pairs for side in pair for row in side[1] if row["kind"] == kind
    )
    assert counts.total() >= 60
    assert len(counts) >= 7
    assert counts.most_common(1)[0][1] <= 0.3 * counts.total()


@pytest.mark.parametrize("kind", ["order", "action", "looks"])
def test_any_place_may_be_the_right_one(pairs, kind):
    counts = Counter(row["answer"] for pair in pairs for row in pair[0][2] if row["kind"] == kind)
    even = counts.total() / 5
    assert counts.total() > 300
    assert max(abs(counts[place] - even) for place in range(5)) <= 4 * even**0.5


def test_words_alone_do_not_give_the_right_option_away(pairs):
    """The option that is most like the others is right no more often than others."""
    right = defaultdict(list)
    for _, _, offered in (pair[0] for pair in pairs):
        for row in offered:
            if row["kind"] != "action":
                words = [set(option.split()) for option in row["options"]]
                alike = [sum(len(own & other) for other in words) - len(own) for own in words]
                best = [i for i, value in enumerate(alike) if value == max(alike)]
                right[row["kind"]].append((row["answer"] in best) / len(best))
    assert abs(np.mean(right["looks"]) - 0.2) < 4 * (0.16 / len(right["looks"])) ** 0.5
    assert np.mean(right["order"]) < 0.25 + 4 * (0.1875 / len(right["order"])) ** 0.5


# --- purity


def test_a_clip_depends_on_seed_and_number_only(sprites):
    order = [draw_clip(7, pair, sprites.items, STYLES, 3) for pair in range(20)]
    assert [draw_clip(7, pair, sprites.items, STYLES, 3) for pair in reversed(range(20))] == order[::-1]
    assert draw_clip(8, 0, sprites.items, STYLES, 3) != order[0]


def test_fewer_clips_are_the_first_of_more(samples):
    some = list(CARD.convert(None, {"size": "5", "resolution": "32", "kinds": "12"}))
    assert some == samples[:5]  # the same bytes, and the last one without its mirror


def test_resolution_and_frames_do_not_change_the_content(samples):
    other = list(
        CARD.convert(None, {"size": "4", "resolution": "48", "frames": "8", "kinds": "12", "fps": "4"})
    )
    assert [s.meta for s in other] == [s.meta for s in samples[:4]]
    assert [frame.shape for frame in decoded(other[0])] == [(48, 48, 3)] * 8


def test_facts_of_the_video(samples):
    for sample in samples[:4]:
        with av.open(io.BytesIO(sample.media["mp4"])) as file:
            (stream,) = file.streams
            assert (stream.codec_context.name, stream.average_rate, stream.frames) == ("h264", 8, 15)
            packets = [packet for packet in file.demux(stream) if packet.size]
            assert all(packet.is_keyframe for packet in packets)
        assert len(sample.media["mp4"]) < 8000


def test_style_and_kinds():
    some = list(
        CARD.convert(None, {"size": "30", "resolution": "32", "style": "twemoji, noto", "kinds": "10"})
    )
    assert {s.meta["style"] for s in some} == {"twemoji", "noto"}
    shown = {state["concept"] for s in some for t in s.meta["layout"]["things"] for state in t["states"]}
    assert len(shown) == 10


def test_numbers_of_questions_are_unique(samples):
    numbers = [
        row["question_id"] for s in samples for kind in ("questions", "choices") for row in s.meta[kind]
    ]
    assert len(set(numbers)) == len(numbers)
    assert {row["dataset"] for s in samples for row in s.meta["questions"]} == {"emoji-clips"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": "9"}, "kinds=9: expected a whole number from 10 to 302"),
        ({"resolution": "33"}, "resolution=33: expected an even number"),
        ({"frames": "4"}, "frames=4: expected a whole number from 5"),
        ({"objects": "5"}, "objects=5: expected a whole number from 2 to 4"),
        ({"style": ANIMATED}, "fluent-animated needs --raw with lobehub-fluent-emoji-anim-1-1.0.0.tgz"),
        ({"style": "notto"}, "unknown 'notto'; did you mean 'noto'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        next(CARD.convert(None, options))


def test_too_few_concepts(sprites):
    with pytest.raises(DataError, match=r"card 'emoji-clips': 1 of the \d+ emoji"):
        load_sprites([c for c in shipped() if c.name == "dog"], "emoji-clips")
