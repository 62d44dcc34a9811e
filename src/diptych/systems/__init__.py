"""The published systems, one folder each. Adding a system: its folder and one line here."""

SYSTEMS: dict[str, str] = {
    "eve": "diptych.systems.eve.system:SYSTEM",
    "mllm": "diptych.systems.mllm.system:SYSTEM",
    "qformer": "diptych.systems.qformer.system:SYSTEM",
    "snps3": "diptych.systems.snps3.system:SYSTEM",
    "soho": "diptych.systems.soho.system:SYSTEM",
    "two_tower": "diptych.systems.two_tower.system:SYSTEM",
    "uniperceiver": "diptych.systems.uniperceiver.system:SYSTEM",
}
"""Configuration name (`system.name`) -> "module:object", imported on first use."""
