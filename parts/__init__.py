"""Pure part maths: attention -> part labels -> masks, and the measures of part quality."""
