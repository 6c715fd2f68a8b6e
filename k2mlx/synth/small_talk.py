"""Turns that need no tool although tools are declared; numbers, times and units often occur in them."""

# ruff: noqa: E501  (a phrase reads best on one line)

from random import Random

from k2mlx.synth.catalogue import templates
from k2mlx.synth.chat import converse
from k2mlx.synth.declare import declare
from k2mlx.synth.facts import fact
from k2mlx.synth.near_misses import REPLIES
from k2mlx.synth.phrasing import render, typed
from k2mlx.synth.requests import draw_request
from k2mlx.synth.rivals import SUMS, is_sum
from k2mlx.synth.single_turn import opened
from k2mlx.synth.talk import Talk
from k2mlx.synth.toolbox import Toolbox

_STATEMENTS: tuple[str, ...] = (
    "the clock in {city} is famous", "my flight from {city} to {city2:city} was {n:1..12} hours late",
    "{n:2..99} people told me about {city}", "I already know that {n:2..12} times {m:2..12} is a lot",
    "I don't need a calculator today", "no need to convert anything", "please don't calculate anything",
    "I like the metric system", "my calculator shows {n:100..9999}", "it is {h:1..11}:{q} here",
    "I was in {city} for {n:2..30} days", "{city} is {n:2..11} hours ahead of us, that is hard",
    "my suitcase weighs {n:10..30} kg", "the recipe needs {n:2..9} cups of flour", "my car does {n:120..220} km/h",
    "I have {n:20..900} dollars in my pocket", "I bought {n:2..20} {things} today", "{n:2..9} {things} are enough",
    "we drove {n:100..900} miles to see you", "I have been to {city} {n:2..9} times",
    "my uncle in {city} is {n:40..90}", "the answer was {n:2..999}, I solved it myself", "I got {n:2..30} right answers",
    "I counted {n:20..900} stars", "my fever is {n:37..40} degrees", "the pool is {n:2..4} meters deep",
    "dinner for {n:2..9} at {h:6..9} is booked already", "I wake up at {h:5..9} and drink {n:2..5} coffees",
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
}  # fmt: skip
_CHATTY_DOMAINS = {"knowledge", "food", "history", *SUMS}


def small_talk(rng: Random) -> Talk:
    """A conversation with tools declared in which none is called."""
    talk = _with_tools(rng)
    chance = rng.random()
    if chance < 0.40:
        converse(talk, rng.choice((1, 1, 1, 2, 3)), rng, files=("numbers",))
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
