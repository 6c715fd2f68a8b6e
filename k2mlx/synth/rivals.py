"""Which tools of the catalogue could serve the same request, so that one is no distractor of the other."""

# ruff: noqa: E501  (a list of names reads best in long lines)

from k2mlx.synth.catalogue import Template

# Words of names that say nothing of what a tool is about.
_COMMON = frozenset(
    """get find search check add set create make lookup list new start book info send of to in show order
    calculate number status buy open price text by
    account adjust amount analysis analyze apply area average balance best between booking calculator change
    compare compute convert converter count current daily data date details energy estimate evaluate facts
    fetch finder for free from gas generate how ideal index is law length line max need of off on pick place
    plan planner play point position power predict query range read recommendation record report reservation
    reserve return reverse run schedule score solution solve suggest table target term test time times top
    translate units up user value volume what who with works yield""".split()
)
# Domains of tools that work something out, and tools that do so in other domains: for all of them a
# calculator would do.
SUMS = frozenset(("geometry", "mathematics", "physics"))
_MORE_SUMS = frozenset(
    """return_on_investment mortgage_payment dividend_income calculate_depreciation savings_goal break_even_point
    calculate_bmr ideal_weight max_heart_rate population_growth solution_concentration ideal_gas_law molar_mass
    radioactive_decay weight_on_planet calculate_payroll scale_recipe carbon_footprint inflation_adjust
    solve_quadratic hypotenuse sphere_volume box_volume mean median standard_deviation max_number sort_numbers
    gcd lcm is_prime prime_factors fibonacci percent_change calculate_bmi split_bill tax_estimate fuel_cost
    add_days days_between count_words reverse_text""".split()
)
# Domains of tools that look something up: a search of the web would do.
_LOOKUPS = frozenset(
    """arts astronomy biology booking chemistry climate finance food games geography health history law people
    sports""".split()
)
# Tools for everything of one kind.
_SEARCHES = frozenset(("web_search", "wikipedia"))
_SOLVERS = frozenset(("calculate", "run_code"))


def is_sum(tool: Template) -> bool:
    """Whether a calculator could serve what this tool is asked for."""
    return tool.domain in SUMS or tool.names[0] in _MORE_SUMS


def alike(one: Template, other: Template) -> bool:
    """Whether two tools could serve the same request: they share a name's word that matters, belong
    to one group, or one of them is for everything of the other's kind."""
    words = [{w for name in t.names for w in name.split("_")} - _COMMON for t in (one, other)]
    return (
        one is other
        or bool(words[0] & words[1])
        or frozenset((one.names[0], other.names[0])) in _RELATED
        or _covers(one, other)
        or _covers(other, one)
    )


def _covers(general: Template, other: Template) -> bool:
    name = general.names[0]
    return (name in _SEARCHES and other.domain in _LOOKUPS) or (name in _SOLVERS and is_sum(other))


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
    ("count_combinations", "count_permutations"), ("degrees_to_radians", "unit_convert"),
    ("convert_number_base", "unit_convert"), ("hypotenuse", "distance_between_points", "distance_3d"),
    ("distance_between_points", "distance_3d", "get_distance"), ("divide", "modulo", "percentage"),
    ("ohms_law", "electric_power", "parallel_resistance"), ("standard_deviation", "calculate_variance"),
    ("max_number", "find_mode", "sort_numbers"), ("rectangle_area", "parallelogram_area"),
    ("gene_lookup", "protein_structure", "mutation_effect"), ("biological_process", "cell_part_function"),
    ("animal_info", "species_classification", "endangered_status"), ("plant_care", "water_plants", "planting_calendar"),
    ("calculate_bmi", "calculate_bmr", "ideal_weight"), ("symptom_check", "disease_information", "disease_statistics"),
    ("find_doctor", "find_hospital", "schedule_checkup", "book_doctor"), ("drug_information", "medicine_reminder"),
    ("find_nearby", "find_hospital", "ev_charging_stations", "find_parking"),
    ("return_on_investment", "percent_change", "compound_interest", "dividend_income"), ("savings_goal", "set_budget"),
    ("company_stock_data", "company_financials", "get_stock_price", "stock_analysis", "get_stock_history"),
    ("convert_money_amount", "convert_currency", "exchange_rate"), ("invest_in_fund", "buy_stock"),
    ("historical_event_date", "historical_events_in_year", "battle_details", "empire_timeline",
     "historical_figure_info"),
    ("us_president_in_year", "president_facts", "historical_figure_info", "scientist_contributions"),
    ("discovery_origin", "scientist_contributions"), ("historical_figure_info", "composer_works", "artist_works"),
    ("find_lawsuits", "lawsuit_details", "law_case_summary", "court_schedule"), ("find_lawyer", "find_nearby"),
    ("statute_lookup", "state_law_lookup", "penalty_lookup"), ("draft_contract", "create_file", "create_note"),
    ("river_info", "lake_info"), ("mountain_height", "city_elevation"), ("geocode", "city_elevation"),
    ("landmark_info", "attractions", "national_park_info"), ("country_statistics", "largest_cities", "country_info"),
    ("travel_route_planner", "get_directions", "get_distance"), ("player_stats", "compare_players", "team_roster"),
    ("team_ranking", "league_table", "championship_winner"), ("game_result", "get_score", "team_ranking"),
    ("sports_event_schedule", "next_match", "find_events"), ("training_plan", "log_workout"),
    ("buy_match_tickets", "book_tickets", "stage_tickets", "book_museum_ticket", "book_movie_tickets"),
    ("roll_custom_dice", "roll_dice", "random_number", "lottery_numbers"), ("deal_cards", "start_game", "best_poker_hand"),
    ("board_game_rules", "start_game", "chess_best_move"), ("crossword_solver", "define_word", "get_synonyms"),
    ("video_game_info", "search_products", "high_score_table"), ("artwork_search", "artist_works", "sculpture_info"),
    ("museum_hours", "book_museum_ticket", "find_exhibition"), ("find_exhibition", "find_events", "attractions"),
    ("musical_scale", "chord_progression"), ("instrument_price", "search_products", "find_nearby"),
    ("podcast_episode_search", "get_podcast"), ("metronome", "set_timer", "set_countdown"),
    ("recipe_for_dish", "find_recipe", "recipes_by_ingredients", "cooking_time", "plan_meals"),
    ("ingredient_substitute", "recipe_for_dish", "find_recipe"), ("nutrient_content", "get_nutrition"),
    ("reserve_dinner", "book_table"), ("restaurant_recommendation", "find_restaurants", "find_nearby"),
    ("weather_history", "get_weather", "get_forecast", "hourly_forecast"), ("wildfire_alerts", "search_news", "get_forecast"),
    ("soil_analysis", "planting_calendar", "fertilizer_amount", "crop_yield_estimate"),
    ("celestial_body_info", "planet_info", "planet_distance", "escape_velocity", "visible_constellations"),
    ("moon_phase", "get_sun_times", "visible_constellations"), ("space_mission_info", "historical_event_date"),
    ("hotel_room_reservation", "book_hotel", "hotel_search_by_amenities", "find_hotels"),
    ("book_flight_ticket", "flight_fare_search", "search_flights"), ("car_specifications", "plate_lookup", "used_car_search"),
    ("rental_car_reservation", "rent_car", "book_taxi"), ("used_car_search", "search_products"),
    ("property_listings", "search_homes", "rent_estimate", "property_value_estimate", "book_viewing"),
    ("job_listing_search", "search_jobs", "apply_job"), ("salary_benchmark", "salary_info", "employee_lookup"),
    ("train_journey_booking", "buy_train_ticket", "search_trains"),
    ("university_search", "book_course", "course_registration"), ("deploy_service", "scale_deployment", "restart_service"),
    ("git_create_branch", "git_commit", "open_pull_request"), ("list_repository_issues", "create_ticket"),
    ("select_rows", "query_database", "update_record"), ("server_metrics", "server_status"),
    ("search_logs", "search_files"), ("explain_code", "run_code", "convert_code"), ("run_tests", "run_code"),
    ("create_database_backup", "copy_file"), ("publish_social_post", "post_status"),
    ("send_direct_message", "send_message", "send_email"), ("trending_topics", "search_news"),
    ("request_leave", "create_event"), ("employee_lookup", "get_contact", "crm_lookup"),
    ("schedule_interview", "schedule_meeting", "create_event"), ("calculate_payroll", "tax_estimate"),
    ("find_meeting_slot", "get_events", "schedule_meeting"), ("academic_paper_search", "find_book", "search_news"),
    ("student_grades", "school_grade"), ("library_catalog_search", "find_book", "book_info", "borrow_book"),
    ("charity_donation", "transfer_money"), ("cancel_event", "cancel_alarm", "remove_from_list"),
    ("book_viewing", "book_doctor", "schedule_meeting"), ("get_score", "next_match", "league_table"),
    ("convert_currency", "unit_convert", "convert_money_amount"), ("convert_code", "translate"),
    ("book_table", "book_hotel", "reserve_dinner", "hotel_room_reservation"), ("order_food", "place_order", "add_to_cart"),
    ("start_game", "play_music", "play_playlist", "get_podcast"), ("set_brightness", "set_volume", "set_thermostat"),
    ("schedule_checkup", "schedule_interview", "schedule_meeting", "create_event", "book_doctor", "book_viewing"),
    # `The height of NAME`: an invented name does not say what kind of thing it is.
    ("element_property", "chemical_density", "celestial_body_info", "lake_info", "landmark_info", "sculpture_info",
     "artwork_search", "mountain_height", "river_info", "car_specifications", "space_mission_info", "planet_info",
     "get_element", "country_statistics", "country_info", "animal_info", "video_game_info"),
    ("disease_information", "drug_information", "biological_process", "historical_figure_info"),
)  # fmt: skip
_RELATED = frozenset(frozenset((a, b)) for group in _GROUPS for a in group for b in group if a != b)
