"""What a browser shows of a live scene; panels hold no logic."""
