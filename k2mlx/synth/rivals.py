"""Which tools of the catalogue could serve the same request, so that one is no distractor of the other."""

# ruff: noqa: E501  (a list of names reads best in long lines)

from k2mlx.synth.catalogue import Template


def alike(one: Template, other: Template) -> bool:
    """Whether two tools could serve the same request: they share a name's word that matters."""
    common = {"get", "find", "search", "check", "add", "set", "create", "make", "lookup", "list", "new", "start",
              "book", "info", "send", "of", "to", "in", "show", "order", "calculate", "number", "status", "buy",
              "open", "price", "text", "by"}  # fmt: skip
    words = [{w for name in t.names for w in name.split("_")} - common for t in (one, other)]
    return (
        one is other
        or bool(words[0] & words[1])
        or frozenset((one.names[0], other.names[0])) in _RELATED
    )


_GROUPS = (
    ("get_weather", "get_forecast"), ("get_time", "get_time_in", "world_clock", "time_difference"),
    ("turn_on_light", "set_light", "set_brightness", "set_light_color", "device_power"),
    ("web_search", "wikipedia", "search_news", "country_info", "animal_info", "get_element", "planet_info",
     "country_info", "define_word", "attractions", "movie_info", "get_nutrition"),
    ("set_timer", "set_countdown", "set_alarm", "create_reminder", "medicine_reminder", "add_todo"),
    ("create_event", "schedule_meeting", "create_reminder", "book_doctor"),
    ("send_email", "send_message"), ("call_contact", "dial_number", "get_contact"),
    ("calculate", "add", "multiply", "subtract", "divide", "power", "square_root", "percentage", "run_code"),
    ("search_products", "find_nearby", "check_stock", "find_book", "add_to_shopping_list", "place_order",
     "add_to_cart"),
    ("find_restaurants", "find_nearby", "attractions", "find_events", "find_parking"),
    ("find_recipe", "recipes_by_ingredients", "web_search"), ("convert_currency", "exchange_rate"),
    ("unit_convert", "convert_temperature"), ("create_note", "create_reminder", "create_file", "add_todo"),
    ("search_notes", "search_files", "search_emails", "web_search", "search_news"),
    ("play_music", "play_playlist", "get_podcast", "playback_control"), ("mean", "median", "calculate"),
    ("translate", "detect_language", "define_word"), ("track_package", "get_order_status"),
    ("book_tickets", "book_movie_tickets"), ("turn_on_light", "device_power", "get_device_status"),
    ("transfer_money", "pay_bill"), ("get_directions", "get_distance", "bus_schedule", "search_trains"),
    ("get_stock_price", "get_stock_history", "buy_stock"), ("find_doctor", "book_doctor"),
    ("search_movies", "movie_info", "web_search"), ("find_book", "borrow_book", "book_info"),
    ("day_of_week", "days_between", "add_days", "get_events"), ("set_thermostat", "read_sensor", "get_weather"),
    ("factorial", "calculate"), ("rectangle_area", "triangle_area", "circle_area", "calculate"),
    ("loan_payment", "compound_interest", "calculate"), ("split_bill", "calculate", "divide"),
    ("open_file", "list_files", "search_files"), ("garage_door", "lock_door"), ("order_food", "find_recipe"),
    ("wikipedia", "search_news", "search_notes", "web_search", "quiz_question"), ("percent_change", "percentage"),
    ("book_taxi", "get_directions", "rent_car"), ("log_expense", "pay_bill", "set_budget"),
    ("buy_train_ticket", "search_trains"), ("create_ticket", "create_note"), ("symptom_check", "find_doctor"),
)  # fmt: skip
_RELATED = frozenset(frozenset((a, b)) for group in _GROUPS for a in group for b in group if a != b)
