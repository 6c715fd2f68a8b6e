"""Turns that need no tool although tools are declared; numbers, times and units often occur in them."""

# ruff: noqa: E501  (a phrase reads best on one line)

from random import Random

from k2mlx.synth.catalogue import templates
from k2mlx.synth.chat import converse
from k2mlx.synth.declare import declare
from k2mlx.synth.facts import fact
from k2mlx.synth.near_misses import REPLIES
from k2mlx.synth.phrasing import render, typed
from k2mlx.synth.requests import draw_request, surrounded
from k2mlx.synth.rivals import SUMS, is_sum
from k2mlx.synth.single_turn import opened
from k2mlx.synth.talk import Talk
from k2mlx.synth.toolbox import Toolbox

_STATEMENTS: tuple[str, ...] = (
    "the clock in {city} is famous", "my flight from {city} to {city2:city} was {n:2..12} hours late",
    "{n:2..99} people told me about {city}", "I already know that {sumfact}", "I don't need a calculator today",
    "no need to convert anything", "please don't calculate anything", "I like the metric system",
    "my calculator shows {n:100..9999}", "it is {h:1..11}:{q} here", "I was in {city} for {n:2..30} days",
    "{city} is {n:2..11} hours ahead of us, that is hard", "my suitcase weighs {n:10..30} kg",
    "the recipe needs {n:2..9} cups of flour", "my car does {n:120..220} km/h",
    "I have {n:20..900} dollars in my pocket", "I bought {n:2..20} {things} today", "{n:2..9} {things} are enough",
    "we drove {n:100..900} miles to see you", "I have been to {city} {n:2..9} times",
    "my uncle in {city} is {n:40..90}", "the answer was {n:2..999}, I solved it myself",
    "I got {n:2..30} right answers", "I counted {n:20..900} stars", "my fever is {n:37..40} degrees",
    "the pool is {n:2..4} meters deep", "dinner for {n:2..9} at {h:6..9} is booked already",
    "I wake up at {h:5..9} and drink {n:2..5} coffees", "my {relative} lives in {city} and goes to bed at {oclock}",
    "in {city} it was {warm}, says my {relative}", "our team calls at {time}, {zone}, every {weekday}",
    "I set my watch to {zone} by mistake", "the train from {city} came in at {oclock}",
    "it was {oclock} when the phone rang", "we met at {oclock} under the clock",
    "{oclock} is my favourite time of day", "I'm never awake before {n:7..11}", "somebody in {city} owes me {money}",
    "we flew over {city} at {oclock}", "{person} is in {city} until {month}",
    "{city} and {city2:city} look the same in the rain", "my phone still shows the time of {city}",
    "the meeting in {city} lasted {span}", "I know what time it is, my {relative} just told me",
    "I can read the clock, I'm {n:5..9}", "the shop in {city} opens at {n:7..11}",
    "the bill was {money} and I gave {money2:money}", "{n:3..9} of us paid {money} each and that was that",
    "I already added it up, it was {n:100..9000}", "the total is {n:20..900}, my {relative} did the sum",
    "{sumfact}, as everybody knows", "my homework was {n:5..30} sums and I did them all",
    "I divided the cake into {n:4..12} pieces", "{n:2..9} for me and {m:2..9} for you, that is fair",
    "they want {share} more rent", "prices went up by {n:3..30} percent", "I got {share} off the {thing}",
    "our budget is {money} and not a cent more", "my average this year was {n:2..5}.{m:1..9}",
    "he scored {n:10..60} points in {m:2..9} games", "I multiplied my tomatoes, from {n:2..9} plants to {m:10..40}",
    "{n:100..999} plus a lot is what I owe", "half of my {things} are gone",
    "I counted to {n:50..900} and fell asleep", "minus {n:2..25} outside and plus {m:18..24} inside",
    "there were {n:20..80} of us and {m:5..19} chairs", "{n:2..9} out of {m:10..20} is not so bad",
    "the numbers in my head are {n:3..40} and {m:41..99}",
    "my locker code was {n:10..99} {m:10..99} {k:10..99} back then", "the baby weighs {heavy}",
    "my parcel was {heavy} and it smelled of fish", "the fish I caught was {n:20..120} cm long",
    "I am {n:5..6} foot {m:2..11} and my brother is taller", "I ran {far} in {span}", "the sign says {far} to {city}",
    "the fence is {n:10..90} metres long and white", "we have {n:2..9} litres of milk left",
    "my rucksack holds {n:20..70} litres", "the ruler is {n:15..30} cm and the line is longer",
    "{warm} is fine with me", "I turned the oven to {n:150..230} and burned everything",
    "the water is {warm}, come in", "my {relative} thinks in pounds and I think in kilos",
    "a mile is longer than I thought", "it was {far} uphill and {far2:far} down again",
    "an inch here, an inch there, that's sewing", "the rope was {n:2..30} feet too short",
    "I drank {n:2..9} pints and sang", "the speed limit is {n:30..130} and nobody keeps it",
    "my tank holds {n:30..80} litres", "the screen is {n:13..85} inches, far too big", "I grew up {far} from the sea",
    "my {thing} is {n:2..40} years old", "{n:3..40} years in {city} and I still get lost",
    "I have {n:2..9} {things}, {m:10..30} {things2:things} and no space",
    "page {n:2..400}, line {m:1..30}, that's where I stopped", "gate {n:1..80}, row {m:1..40}, and I'm hungry",
    "room {n:100..900}, {nth} floor, no lift", "my exam starts at {oclock} and lasts {span}",
    "on {birth} we moved to {city} with {n:2..40} boxes", "I slept from {n:9..11} to {m:5..8}, like a stone",
    "{n:2..5} kids, {m:2..5} cats, one bathroom", "we were {n:3..14} at the table and {m:2..3} spoke",
    "bus {n:2..99} at {oclock}, every single day", "my password had {n:8..20} letters and I lost it",
    "they won {result} and I missed it", "the film began at {oclock} and I left after {span}",
    "it took {span} to get to {city}, not again",
)  # fmt: skip
_CANNOT: tuple[str, ...] = (
    "Sorry, I cannot do that. I have only [a calculator, a clock and a unit converter|tools for sums, times and units].",
    "I can't do that here. I can calculate, tell the time in a city and convert units.",
    "That is not possible for me, sorry.", "I have no tool for that.", "I'm afraid I can't. My tools are a calculator, a clock and a unit converter.",
)  # fmt: skip
# Catalogue tools whose requests one of the three tools could serve.
_SERVED = {
    "add", "multiply", "subtract", "divide", "power", "square_root", "calculate", "percentage", "mean", "world_clock",
    "unit_convert", "convert_temperature", "rectangle_area", "split_bill", "time_difference", "factorial",
    "triangle_area", "circle_area", "box_volume", "sphere_volume", "hypotenuse", "run_code", "percent_change",
    "loan_payment", "compound_interest", "fuel_cost", "calculate_bmi", "median", "day_of_week", "fibonacci",
    "standard_deviation", "gcd", "lcm", "is_prime", "prime_factors", "max_number", "sort_numbers", "solve_quadratic",
    "tell_joke", "define_word", "country_info", "tax_estimate", "days_between", "add_days", "get_sun_times",
    "find_recipe", "animal_info", "planet_info", "quiz_question", "count_words", "reverse_text",
}  # fmt: skip

# Catalogue tools that would have something to say to small talk ("tell me a joke").
_CHATTY = {
    "get_weather", "get_forecast", "search_news", "web_search", "tell_joke", "define_word", "get_synonyms", "get_quote",
    "country_info", "get_stock_price", "search_movies", "movie_info", "find_recipe", "recipes_by_ingredients",
    "play_music", "translate", "get_podcast", "attractions", "get_nutrition", "world_clock", "find_restaurants",
    "biological_process", "plant_care", "disease_information", "endangered_status", "species_classification",
    "convert_money_amount", "country_statistics", "largest_cities", "mountain_height", "river_info", "landmark_info",
    "board_game_rules", "crossword_solver", "player_stats", "celestial_body_info", "weight_on_planet", "moon_phase",
    "planet_distance", "explain_code", "library_catalog_search", "podcast_episode_search", "training_plan",
    "find_exhibition", "element_property", "weather_history", "hourly_forecast", "plan_meals",
    "create_note", "create_reminder", "get_rhymes", "spell_check", "detect_language", "send_message", "post_status",
    "send_email", "get_distance", "travel_route_planner", "inflation_adjust", "lottery_numbers", "roll_custom_dice",
    "discovery_origin", "log_expense", "find_nearby", "composer_works",
}  # fmt: skip
_CHATTY_DOMAINS = {"knowledge", "food", "history", *SUMS}


def small_talk(rng: Random) -> Talk:
    """A conversation with tools declared in which none is called."""
    talk = _with_tools(rng)
    chance = rng.random()
    if chance < 0.40:
        converse(talk, rng.choice((1, 1, 1, 2, 3)), rng, files=("numbers", "remarks"))
    elif chance < 0.52:
        talk.user(typed(render(rng.choice(_STATEMENTS), {}, rng), rng))
        talk.answer(rng.choice(REPLIES))
    elif chance < 0.60:
        question, answered = fact(rng)
        talk.user(typed(question, rng))
        talk.answer(answered)
    elif chance < 0.70:
        beyond_tools(talk, rng)
    else:
        converse(talk, rng.choice((1, 1, 2, 2, 3)), rng)
    if rng.random() < 0.4:
        # What often stands around a request must not be what tells one.
        first = next(message for message in talk.messages if message["role"] == "user")
        first["content"] = surrounded(first["content"], rng)
    return talk


def beyond_tools(talk: Talk, rng: Random) -> None:
    """The user asks for something that needs a tool which is not there."""
    talk.tools = Toolbox(rng).specs()
    beyond = [t for t in templates() if t.names[0] not in _SERVED and not is_sum(t)]
    template = rng.choice(beyond)
    talk.user(draw_request(declare(template, rng), rng).text)
    talk.answer(render(rng.choice(_CANNOT), {}, rng))


def _with_tools(rng: Random) -> Talk:
    if rng.random() < 0.72:
        return opened(Toolbox(rng))
    idle = [t for t in templates() if t.names[0] not in _CHATTY and t.domain not in _CHATTY_DOMAINS]
    specs = [declare(template, rng).spec for template in rng.sample(idle, rng.randint(1, 4))]
    return Talk(tools=list({spec["function"]["name"]: spec for spec in specs}.values()))
