"""How everything bundled is made."""
