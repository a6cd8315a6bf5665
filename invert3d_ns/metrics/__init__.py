"""Everything a claim rests on."""
