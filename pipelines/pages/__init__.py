"""Pages for people: one style, one frame, one kit of charts, and no file beside the page."""
