"""Request bodies, from bytes to validated parameters: read within bounds, unpacked, counted, parsed, validated."""
