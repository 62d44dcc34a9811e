"""The `vqa-v2` card: questions about COCO's pictures, and Visual Genome's on request."""

from collections.abc import Iterator

from diptych.data.cards.base import Card, Layout, Source, Split
from diptych.data.cards.vqa_v2_convert import (
    ANSWER_FILES,
    NAME,
    OPTIONS,
    TREE,
    TREE_IMAGES,
    VG_QUESTIONS,
    convert,
    convert_uniperceiver,
    facts,
    facts_uniperceiver,
)
from diptych.data.cards.vqa_v2_files import SUBSETS

HOMEPAGE = "https://visualqa.org"


def _sources() -> Iterator[Source]:
    for name in ("train", "val"):
        subset = SUBSETS[name]
        yield Source(
            subset.questions_zip,
            "VQA's download page: questions",
            alternatives=(subset.questions,),
        )
        yield Source(
            subset.answers_zip,
            "VQA's download page: annotations",
            alternatives=(subset.answers,),
        )
        yield _pictures(subset.images)
    test = SUBSETS["test"]
    yield Source(
        test.questions_zip,
        "VQA's download page: questions; holds those of test-dev, too",
        required=False,
        alternatives=(test.questions, SUBSETS["test_dev"].questions),
    )
    yield _pictures(test.images, required=False)
    yield Source(
        ANSWER_FILES[0],
        "the published list of 3,129 answers (from a bundle of features; `-o answers=` names another)",
        required=False,
        alternatives=ANSWER_FILES[1:],
    )
    for name in ("question_answers.json", "image_data.json"):
        yield Source(
            name,
            "Visual Genome's homepage, for `-o vg=`; below `-o vg_root=` if that is given",
            required=False,
            alternatives=(f"{name}.zip",),
        )


def _pictures(folder: str, root: str = "", *, required: bool = True) -> Source:
    origin = f"COCO's download page: {folder[-4:]} {folder[:-4].capitalize()} images"
    names = (f"{root}{folder}.zip", f"{root}{folder}")
    first, other = names[::-1] if root else names
    return Source(first, origin, required=required, alternatives=(other,))


def _tree() -> Iterator[Source]:
    for name in ("train", "val"):
        subset = SUBSETS[name]
        yield Source(f"{TREE}{subset.questions}", "VQA's download page")
        yield Source(
            f"{TREE}{name}_target.pkl",
            "the bundle of features that Uni-Perceiver's data page names; better VQA's own annotations",
            alternatives=(f"{TREE}{subset.answers}",),
        )
        yield _pictures(subset.images, TREE_IMAGES)
    for name in ("test", "test_dev"):
        yield Source(f"{TREE}{SUBSETS[name].questions}", "VQA's download page", required=False)
    yield _pictures("test2015", TREE_IMAGES, required=False)
    yield Source(
        f"{TREE}{ANSWER_FILES[0]}",
        "the same bundle; needed with the published targets",
        required=False,
        alternatives=tuple(f"{TREE}{name}" for name in ANSWER_FILES[1:]),
    )
    yield Source(VG_QUESTIONS, "the same bundle: questions of Visual Genome", required=False)
    yield Source(
        f"{TREE}vg_target.pkl",
        "the same bundle",
        required=False,
        alternatives=(f"{TREE}VG_annotations.json",),
    )
    yield Source(f"{TREE}coco_map.json", "the same bundle: names of pictures", required=False)


CARD = Card(
    name=NAME,
    title="VQA v2",
    description=(
        "Questions about photographs of COCO, each with the answers of ten people. A picture becomes one "
        "sample with all its questions: train on it with `data.examples: questions`. Uni-Perceiver trains on "
        "`train_without_minival` (with `-o vg=coco` on `train_vg`) and evaluates on `minival`, the last "
        "3,000 questions of val. The answers of test and test-dev are on the owners' server only. "
        "A model chooses from a list of answers: 3,129 in the published one, those that at least nine "
        "questions of train and val have after normalisation. Its order is nowhere but in its file: give "
        "that with `-o answers=` to use weights that were trained on it. Without it a list is made by the "
        "same rule."
    ),
    licence=(
        "Annotations: CC BY 4.0, as far as we recall the owners' terms; those of Visual Genome the same. The "
        "photographs belong to their authors under Flickr's terms. Check the homepage before you publish."
    ),
    citation=(
        "Goyal et al., Making the V in VQA Matter, 2017; Antol et al., VQA: Visual Question Answering, 2015"
    ),
    homepage=HOMEPAGE,
    convert=convert,
    facts=facts,
    sources=tuple(_sources()),
    splits={
        "train": Split("split = 'train'", 82_783, texts=443_757, about=True),
        "val": Split("split IN ('val', 'minival')", 40_504, texts=214_354, about=True),
        "trainval": Split("split IN ('train', 'val', 'minival')", 123_287, texts=658_111, about=True),
        "minival": Split(
            "split = 'minival'",
            note="the last 3,000 questions of val; their first picture may be in val, too",
        ),
        "train_without_minival": Split(
            "split IN ('train', 'val')", note="what Uni-Perceiver trains on, without Visual Genome"
        ),
        "train_vg": Split("split IN ('train', 'val', 'vg')", note="the same with Visual Genome"),
        "vg": Split("split = 'vg'", note="questions of Visual Genome, if asked for"),
        "test": Split(
            "split IN ('test', 'test_dev')", note="about 81,434 pictures and 447,793 questions, no answers"
        ),
        "test_dev": Split("split = 'test_dev'", note="about 107,394 questions, no answers"),
    },
    options=OPTIONS,
    annotations=("answers",),
    layouts={
        "uniperceiver": Layout(
            "The tree of Uni-Perceiver's data page; --raw is its DATA_PATH. Without VQA's own annotations "
            "(below `VQA/`, too) questions have published scores of answers, and no accuracy can be "
            "computed.",
            convert_uniperceiver,
            tuple(_tree()),
            facts_uniperceiver,
        )
    },
    target_set="vqa",
    prepared=(
        "- key: name of the picture's file without its ending (the picture at the border of minival: with "
        "`_minival` behind it); Visual Genome: `vg_<number>`\n"
        "- medium: `jpg`, the file as it is\n"
        "- match id: `coco_<id>`, the same in all cards with pictures of COCO\n"
        "- columns: `file`, `dataset` (vqa, vg), `coco_id`, `questions` (how many)\n"
        "- in the JSON: `questions`: `{question, question_id, dataset, answers: [10], question_type, kind}`; "
        "Visual Genome has one `answer`, test none; from published targets `scores: {answer: score}`\n"
        "- `facts` in dataset.json: `answers`, the list to choose from, and `answers_from`"
    ),
    oddities=(
        "- Answers are as people wrote them. An answer scores by how many of the ten gave it: 0.3, 0.6, 0.9, "
        "then 1, by exact text; the official accuracy normalises first.\n"
        "- The first of the published 3,129 answers is the empty text: articles are normalised away.\n"
        "- Questions and answers are joined by their ids, wherever they stand in the files. A question of "
        "train or val without answers counts as `no answer`.\n"
        "- Question ids of VQA and Visual Genome may be equal: `dataset` tells them apart.\n"
        "- Uni-Perceiver's page forgets `train_target.pkl` and the questions of test2015; its questions of "
        "Visual Genome have COCO's numbers of pictures.\n"
        "- Pickles are read without running anything in them."
    ),
    miniature="diptych.data.miniatures.vqa:make",
)
