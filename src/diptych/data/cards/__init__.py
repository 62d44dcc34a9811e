"""The table of dataset cards. Adding a dataset: its card file and one line here."""

from diptych.resolve import look_up

CARDS: dict[str, str] = {
    "emoji": "diptych.data.cards.emoji:CARD",
    "emoji-scenes": "diptych.data.cards.emoji_scenes:CARD",
    "emoji-clips": "diptych.data.cards.emoji_clips:CARD",
    "emoji-glue": "diptych.data.cards.emoji_glue:CARD",
    "retrieval-json": "diptych.data.cards.xvlm_json_retrieval:CARD",
    "vqa-json": "diptych.data.cards.xvlm_json_vqa:CARD",
    "nlvr-json": "diptych.data.cards.xvlm_json_nlvr:CARD",
    "conversations-json": "diptych.data.cards.conversations:CARD",
    "soho-pretrain": "diptych.data.cards.soho:CARD_PRETRAIN",
    "soho-vqa": "diptych.data.cards.soho:CARD_VQA",
    "coco-caption": "diptych.data.cards.coco_caption:CARD",
    "coco-2017": "diptych.data.cards.coco_2017:CARD",
    "flickr30k": "diptych.data.cards.flickr30k:CARD",
    "visual-genome": "diptych.data.cards.visual_genome:CARD",
    "vqa-v2": "diptych.data.cards.vqa_v2:CARD",
    "msvd": "diptych.data.cards.msvd:CARD",
    "msvd-qa": "diptych.data.cards.msvd_qa:CARD",
    "sbu": "diptych.data.cards.sbu:CARD",
    "cc3m": "diptych.data.cards.cc3m:CARD",
    "cc12m": "diptych.data.cards.cc12m:CARD",
    "yfcc15m": "diptych.data.cards.yfcc15m:CARD",
    "webvid": "diptych.data.cards.webvid:CARD",
    "howto100m": "diptych.data.cards.howto100m:CARD",
    "internvid": "diptych.data.cards.internvid:CARD",
    "didemo": "diptych.data.cards.didemo:CARD",
    "msr-vtt": "diptych.data.cards.msrvtt:CARD",
    "msrvtt-qa": "diptych.data.cards.msrvtt_qa:CARD",
    "msrvtt-mc": "diptych.data.cards.msrvtt_mc:CARD",
    "bookswiki": "diptych.data.cards.bookswiki:CARD",
    "glue": "diptych.data.cards.glue:CARD",
    "nlvr2": "diptych.data.cards.nlvr2:CARD",
    "snli-ve": "diptych.data.cards.snli_ve:CARD",
    "imagenet-1k": "diptych.data.cards.imagenet:CARD",
    "imagenet-21k": "diptych.data.cards.imagenet_21k:CARD",
    "kinetics-400": "diptych.data.cards.kinetics:CARD_400",
    "kinetics-700": "diptych.data.cards.kinetics:CARD_700",
    "moments-in-time": "diptych.data.cards.moments:CARD",
    "mvbench": "diptych.data.cards.mvbench:CARD",
    "captions-json": "diptych.data.cards.captions_json:CARD",
}
"""Card name -> "module:object", imported on first use."""


def render_markdown() -> str:
    """Return the documentation page of all cards (docs/datasets.md)."""
    from diptych.data.cards.render import render  # here: importing the table stays cheap

    return render(look_up(CARDS, name, "card") for name in CARDS)
