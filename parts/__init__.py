"""Pure maths of parts: attention -> part labels -> masks, and measures of part quality."""
