"""Words of photographs that come without cameras."""
