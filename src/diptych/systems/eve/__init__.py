"""EVE: one multiway transformer with modality-aware experts for pictures, texts and pairs."""
