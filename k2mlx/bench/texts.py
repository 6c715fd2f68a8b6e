"""What speculation is tried on: text that is to be repeated, and text that is not."""

_MINUTES = (
    "The committee met on Tuesday to discuss the new library. Mr. Alder said that the roof was old"
    " and that the windows let in the rain. Mrs. Brook asked who would pay for the work, and nobody"
    " answered. After an hour they agreed to write a letter to the mayor and to meet again in the"
    " spring.\n\n"
)
PROMPTS = {"copy": _MINUTES * 3, "ordinary": "Once upon a time"}
ABOUT = {
    "copy": "a paragraph that stands there three times",
    "ordinary": "the beginning of a story",
}
