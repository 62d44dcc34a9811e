"""The emoji card on miniature npm packages."""

import io
import sys
import tarfile

import numpy as np
import pytest
from emoji_fixture import EXPECTED, color, make_raw, write_tarball
from PIL import Image

from diptych.data.cards import emoji_build
from diptych.data.cards.emoji import CARD
from diptych.data.cards.emoji_raw import PACKAGES, code_key, read_raw, render, slug
from diptych.data.cards.npm import MAX_MEMBER, Package, read_package
from diptych.data.cards.sprites import STYLES, held_out, read_parquet
from diptych.errors import DataError, UsageError


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return make_raw(tmp_path_factory.mktemp("raw"))


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))


def test_exactly_the_concepts_that_all_styles_show_in_order(raw):
    assert [(c.hexcode, c.name) for c in read_raw(raw)] == EXPECTED


def test_every_picture_is_the_one_of_its_style_and_concept(raw):
    for sample in CARD.convert(raw, {}):
        picture = pixels(sample.media["webp"])
        assert picture.shape == (64, 64, 4)
        wanted = color(sample.meta["style"], sample.meta["concept"])
        # Lossy WebP moves a flat colour by a few steps; different fixture colours are further apart.
        assert np.abs(picture[32, 32, :3].astype(int) - wanted).max() <= 8, sample.key
        assert picture[32, 32, 3] == 255


def test_samples_carry_the_facts(raw):
    samples = {sample.key: sample for sample in CARD.convert(raw, {})}
    assert len(samples) == 4 * len(EXPECTED)
    sample = samples["twemoji_0023-fe0f-20e3"]
    assert sample.captions == ("keycap: #",)
    assert sample.match_id == "0023-FE0F-20E3"
    assert sample.split == "unseen_style"
    assert sample.meta["category"] == "animals-nature"
    assert sample.meta["subcategory"] == "animal-mammal"
    assert sample.meta["translations"]["de"] == "keycap: # (de)"
    assert sample.meta["concept_index"] == len(EXPECTED) - 2
    assert samples["noto_1f44b"].split == "train"
    assert samples["noto_1f44b"].meta["category"] == "people-body"


def test_styles_of_a_concept_lie_beside_each_other(raw):
    samples = list(CARD.convert(raw, {}))
    assert [sample.meta["style"] for sample in samples[:4]] == list(STYLES)
    assert len({sample.match_id for sample in samples[:4]}) == 1


def test_tags_become_a_second_caption_on_request(raw):
    samples = list(CARD.convert(raw, {"captions": "tags"}))
    assert samples[0].captions == ("grinning face", "grinning thing")


def test_unpacked_packages_give_the_same_samples(raw, tmp_path):
    unpacked = make_raw(tmp_path, packed=False)
    assert list(CARD.convert(unpacked, {})) == list(CARD.convert(raw, {}))


def test_other_sizes(raw):
    for sample in CARD.convert(raw, {"size": "96"}):
        assert pixels(sample.media["webp"]).shape == (96, 96, 4)


def test_a_picture_that_is_not_square_is_padded_not_squashed(raw):
    (sample,) = (s for s in CARD.convert(raw, {}) if s.key == "fluent-3d_1f680")
    alpha = pixels(sample.media["webp"])[..., 3]
    # 256 x 264 in a square of 264: 4 of 264 pixels on each side, 0.97 of 64.
    assert alpha[32, 32] == 255
    assert alpha[32, 0] < 60
    assert alpha[0, 32] == 255


def test_invisible_colours_do_not_bleed_into_the_edges():
    image = Image.new("RGBA", (128, 128), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 65, 128))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    edge = np.asarray(render(buffer.getvalue(), 64, "test"))[32, 32]
    assert edge.tolist() == [0, 0, 255, 128]


@pytest.mark.parametrize(
    ("code", "key"),
    [
        ("0023-FE0F-20E3", "23-20e3"),
        ("a9-fe0f", "a9"),
        ("1F600", "1f600"),
        ("1f468-200d-1f680", "1f468-200d-1f680"),
    ],
)
def test_code_key(code, key):
    assert code_key(code) == key


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("piñata", "pinata"),
        ("keycap: 10", "keycap-10"),
        ("Japanese “free of charge” button", "japanese-free-of-charge-button"),
        ("O button (blood type)", "o-button-blood-type"),
        ("woman’s hat", "womans-hat"),
        ("Mrs. Claus", "mrs-claus"),
    ],
)
def test_slug(name, stem):
    assert slug(name) == stem


def test_a_tenth_of_each_group_is_held_out_by_hash():
    groups = {f"A{i}": "a" for i in range(20)} | {f"B{i}": "b" for i in range(10)} | {"C0": "c"}
    chosen = held_out(groups)
    assert sorted(groups[code] for code in chosen) == ["a", "a", "b"]
    # Fixed: not a matter of order, and the same tomorrow.
    assert held_out(dict(reversed(groups.items()))) == chosen
    assert chosen == {"A3", "A9", "B0"}  # smallest by sha256sum


def test_the_build_script_writes_what_the_card_reads(raw, tmp_path, capsys):
    out = tmp_path / "emoji.parquet"
    assert emoji_build.main(["--raw", str(raw), "--out", str(out)]) == 0
    assert read_parquet(out) == tuple(read_raw(raw))
    assert f"{len(EXPECTED)} concepts" in capsys.readouterr().out


def test_the_build_script_reports_missing_packages(tmp_path, capsys):
    assert emoji_build.main(["--raw", str(tmp_path), "--out", str(tmp_path / "x.parquet")]) == 1
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_a_missing_package_names_the_command_that_gets_it(package, tmp_path):
    raw = make_raw(tmp_path, without=(package.name,))
    with pytest.raises(DataError, match=f"npm pack {package.name}@{package.version}"):
        list(CARD.convert(raw, {}))


def test_a_raw_folder_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="expected a folder"):
        list(CARD.convert(tmp_path / "nowhere", {}))


def test_missing_renderer_names_the_extra(raw, monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(UsageError, match=r"pip install 'diptych\[emoji\]'"):
        list(CARD.convert(raw, {}))


PACKAGE = Package("some-package", "1.0.0")
IDENTITY = b'{"name": "some-package", "version": "1.0.0"}'


def test_another_version_is_refused(tmp_path):
    write_tarball(
        tmp_path / PACKAGE.tarball, {"package.json": b'{"name": "some-package", "version": "1.0.1"}'}
    )
    with pytest.raises(DataError, match=r"holds some-package 1\.0\.1, expected some-package 1\.0\.0"):
        read_package(tmp_path, PACKAGE, lambda path: True)


@pytest.mark.parametrize("cut", [0, 10, 400])
def test_a_damaged_tarball_is_refused(tmp_path, cut):
    path = tmp_path / PACKAGE.tarball
    noise = bytes(np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8))
    write_tarball(path, {"package.json": IDENTITY, "a": noise})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match="npm pack"):
        read_package(tmp_path, PACKAGE, lambda path: True)


def test_links_in_a_tarball_are_not_followed_and_nothing_is_written(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    links = []
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        link = tarfile.TarInfo(f"package/link{len(links)}.png")
        link.type, link.linkname = kind, str(secret)
        links.append(link)
    raw = tmp_path / "raw"
    write_tarball(raw / PACKAGE.tarball, {"package.json": IDENTITY, "../../up.png": b"up"}, tuple(links))
    files = read_package(raw, PACKAGE, lambda path: path.endswith(".png"))
    assert b"secret" not in files.values()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["raw", "secret.png", PACKAGE.tarball]


def test_a_file_of_absurd_size_is_refused(tmp_path):
    write_tarball(tmp_path / PACKAGE.tarball, {"package.json": IDENTITY, "a.png": bytes(MAX_MEMBER + 1)})
    with pytest.raises(DataError, match=r"a\.png has"):
        read_package(tmp_path, PACKAGE, lambda path: path.endswith(".png"))


def test_a_broken_picture_names_style_and_concept(tmp_path):
    raw = make_raw(tmp_path, packed=False)
    broken = raw / "node_modules/@lobehub/fluent-emoji-3d/assets/1f436.webp"
    broken.write_bytes(broken.read_bytes()[:20])
    with pytest.raises(DataError, match="fluent-3d 1F436"):
        list(CARD.convert(raw, {}))


def test_a_broken_svg_names_style_and_concept(tmp_path):
    raw = make_raw(tmp_path, packed=False)
    (raw / "node_modules/fluentui-emoji/icons/flat/dog.svg").write_bytes(b"<svg oops")
    with pytest.raises(DataError, match="fluent-flat 1F436"):
        list(CARD.convert(raw, {}))
