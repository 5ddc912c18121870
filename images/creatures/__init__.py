"""The built-in data set: articulated animals in cluttered scenes, with exact part labels."""
