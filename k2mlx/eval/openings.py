"""What the user says in `k2mlx eval chat`: openings of everyday talk, and lines to go on with that
fit any opening of the same topic. None of it was written for training.
"""

from typing import NamedTuple


class Topic(NamedTuple):
    openings: tuple[str, ...]
    follow_ups: tuple[str, ...]


GREETING = Topic(
    openings=(
        "Hello there, how is it going?",
        "Good evening! Anything new with you?",
        "Hey. I just wanted someone to talk to for a minute.",
        "Hi, I have never used one of these before. What do I do?",
        "Morning! I am not quite awake yet.",
    ),
    follow_ups=(
        "So who am I talking to?",
        "What do people usually ask you?",
        "Is there something you like to talk about?",
        "That is kind of you to say.",
        "Tell me something nice to start with.",
    ),
)
WEATHER = Topic(
    openings=(
        "It has been raining here since Tuesday.",
        "What a gorgeous sunny morning it is.",
        "I think it is going to snow tonight.",
        "The wind nearly took my hat off on the way home.",
        "It is so hot that I cannot think straight.",
    ),
    follow_ups=(
        "Do you have a favourite season?",
        "What should I do on a day like this?",
        "It is supposed to change at the weekend.",
        "My neighbour says it was worse when she was a girl.",
        "Should I stay in, do you think?",
    ),
)
FOOD = Topic(
    openings=(
        "I burnt the rice again.",
        "Someone at work brought in a lemon cake.",
        "I want to cook something easy tonight. Any ideas?",
        "I have been trying to eat more vegetables.",
        "There is a new noodle place on our street.",
    ),
    follow_ups=(
        "I am getting hungry just talking about it.",
        "What would you have with it?",
        "My brother will not touch anything green.",
        "Do you think soup would be better?",
        "I might invite a friend over.",
    ),
)
ANIMALS = Topic(
    openings=(
        "We are thinking about getting a puppy.",
        "There was a fox in our garden last night.",
        "My old cat sleeps all day long.",
        "I saw a heron standing in the river this morning.",
        "My daughter wants a rabbit for her birthday.",
    ),
    follow_ups=(
        "Do you like animals?",
        "What do you think it eats?",
        "It did not seem to be afraid of me at all.",
        "What would be a good name?",
        "I used to have a dog when I was small.",
    ),
)
WORK = Topic(
    openings=(
        "I start a new job on Monday and I am nervous.",
        "My boss moved the meeting again.",
        "I cannot concentrate on anything today.",
        "We finally finished the project that we were working on.",
        "I am thinking about changing careers.",
    ),
    follow_ups=(
        "What would you do in my place?",
        "My colleagues are nice, at least.",
        "I think I need a holiday.",
        "How do people stay calm about these things?",
        "Maybe I worry too much.",
    ),
)
FREE_TIME = Topic(
    openings=(
        "I have nothing planned for the weekend.",
        "I have started learning the guitar.",
        "I am reading a mystery and I think the gardener did it.",
        "We went to see a film last night, and I fell asleep.",
        "My friends want me to go camping with them.",
    ),
    follow_ups=(
        "What do you do for fun?",
        "It is harder than I expected.",
        "Do you think I should give it another try?",
        "What else could I do?",
        "My sister says that I need a hobby.",
    ),
)
FAMILY = Topic(
    openings=(
        "My grandmother turns ninety next week.",
        "My son lost his first tooth today.",
        "My parents are coming to stay with us.",
        "I had an argument with my sister.",
        "We are expecting a baby in the spring.",
    ),
    follow_ups=(
        "What should I say to them?",
        "I want it to be a happy day for everybody.",
        "Families are not always easy.",
        "Do you have any advice for me?",
        "It makes me feel old.",
    ),
)
TRAVEL = Topic(
    openings=(
        "We are going to the seaside in August.",
        "I missed my train this morning.",
        "I have always wanted to see the mountains.",
        "I am packing and I do not know what to take.",
        "We just came back from a week on a farm.",
    ),
    follow_ups=(
        "Where would you like to go?",
        "I prefer the train to flying.",
        "The children will love it.",
        "What is the best part of a trip, in your opinion?",
        "I forget something every single time.",
    ),
)
HOME = Topic(
    openings=(
        "My kitchen tap has been dripping all week.",
        "We want to paint the bedroom. Which colour should we take?",
        "I planted tomatoes on the balcony.",
        "The people upstairs are so noisy.",
        "I spent the whole day cleaning the flat.",
    ),
    follow_ups=(
        "Do you think I can do it by myself?",
        "My husband says to leave it alone.",
        "How would you go about it?",
        "I have hardly any time for it.",
        "At least the place is ours.",
    ),
)
FEELING = Topic(
    openings=(
        "I feel a bit lonely today.",
        "I am so happy that I could sing.",
        "I could not sleep last night.",
        "I am worried about my exam.",
        "I think I am coming down with a cold.",
    ),
    follow_ups=(
        "Do you ever feel like that?",
        "What helps, do you think?",
        "I have not told anyone else.",
        "Thank you for listening.",
        "Perhaps I should go for a walk.",
    ),
)
WONDERING = Topic(
    openings=(
        "Why do leaves turn red in autumn?",
        "Tell me a short story about a lighthouse.",
        "What is the moon made of?",
        "What makes a good friend?",
        "How do bees make honey?",
    ),
    follow_ups=(
        "That is interesting. Go on.",
        "How do you know that?",
        "Can you explain it to a child?",
        "And what happened after that?",
        "I am not sure that I believe you.",
    ),
)

TOPICS = (
    GREETING,
    WEATHER,
    FOOD,
    ANIMALS,
    WORK,
    FREE_TIME,
    FAMILY,
    TRAVEL,
    HOME,
    FEELING,
    WONDERING,
)
