"""A scene that is edited while people watch it: actions, their queue, history."""
