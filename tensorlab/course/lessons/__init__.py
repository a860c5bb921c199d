"""One module for each lesson, of the lesson's name: its explorers and the checks of its
exercises."""
