"""From token ids to typed events: detokenizer, stop strings, output parser."""
