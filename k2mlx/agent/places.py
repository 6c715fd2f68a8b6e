"""Which time zone a city, country or abbreviation means: the clock tool's written tables.

Zones that carry their city's name (Asia/Tokyo) are found without this table; here stand the large
cities that have none, and countries. A country with several zones is told by its capital's name,
because "in Russia" would be a half-truth.

A line is `zone: name, other spelling, ...; next place ...` and may go on, indented, on the next.
The first name is the one that the clock says.
"""

_CITIES = """
Africa/Abidjan: Yamoussoukro
Africa/Cairo: Alexandria; Giza
Africa/Casablanca: Rabat; Marrakesh, Marrakech; Fez; Tangier
Africa/Dar_es_Salaam: Dodoma; Zanzibar
Africa/Johannesburg: Cape Town; Durban; Pretoria; Soweto
Africa/Lagos: Abuja; Kano; Ibadan
Africa/Nairobi: Mombasa
Africa/Porto-Novo: Cotonou
Africa/Tripoli: Benghazi
Africa/Addis_Ababa: Addis Ababa
America/Anchorage: Juneau; Fairbanks
America/Argentina/Buenos_Aires: Buenos Aires; Rosario
America/Argentina/Cordoba: Cordoba
America/Bahia: Salvador
America/Bogota: Medellin; Cali; Cartagena
America/Boise: Boise
America/Cancun: Cancun
America/Chicago: Chicago; Houston; Dallas; San Antonio; Austin; Fort Worth; Minneapolis; Saint
    Paul, St Paul; Milwaukee; Madison; St Louis, Saint Louis; Kansas City; New Orleans; Memphis;
    Nashville; Oklahoma City; Tulsa; Omaha; Wichita; Des Moines; Little Rock; Baton Rouge;
    Mobile
America/Denver: Denver; Salt Lake City; Albuquerque; Santa Fe; Colorado Springs; Boulder; El
    Paso; Cheyenne; Billings
America/Edmonton: Calgary
America/Fortaleza: Fortaleza; Natal
America/Guayaquil: Quito
America/Halifax: Halifax
America/Indiana/Indianapolis: Indianapolis
America/Kentucky/Louisville: Louisville
America/La_Paz: La Paz; Sucre
America/Lima: Cusco; Arequipa
America/Los_Angeles: Los Angeles, LA, L.A.; San Francisco, SF; San Diego; San Jose, Silicon
    Valley; Sacramento; Oakland; Fresno; Long Beach; Seattle; Spokane; Tacoma; Portland; Las
    Vegas, Vegas; Reno; Palo Alto; Berkeley; Hollywood; Cupertino
America/Managua: Managua
America/Mexico_City: Mexico City; Guadalajara; Puebla
America/Montevideo: Montevideo
America/New_York: New York, New York City, NYC, Manhattan, Brooklyn; Washington, Washington DC,
    Washington D.C., D.C.; Boston; Philadelphia; Miami; Atlanta; Orlando; Tampa; Jacksonville;
    Baltimore; Pittsburgh; Cleveland; Columbus; Cincinnati; Charlotte; Raleigh; Richmond;
    Buffalo; Detroit; Providence; Hartford; Newark; Princeton; Savannah; Charleston
America/Phoenix: Phoenix; Tucson
America/Port-au-Prince: Port-au-Prince
America/Port_of_Spain: Port of Spain
America/Recife: Recife
America/Regina: Saskatoon
America/Santiago: Valparaiso
America/Sao_Paulo: Sao Paulo; Rio de Janeiro, Rio; Brasilia; Belo Horizonte; Porto Alegre;
    Curitiba
America/St_Johns: St. John's, Saint John's
America/Toronto: Toronto; Ottawa; Montreal; Quebec City; Mississauga
America/Vancouver: Vancouver; Victoria
Asia/Baghdad: Basra; Mosul
Asia/Bangkok: Phuket; Chiang Mai; Pattaya
Asia/Colombo: Kandy
Asia/Dhaka: Chittagong
Asia/Dubai: Abu Dhabi; Sharjah
Asia/Ho_Chi_Minh: Ho Chi Minh City; Saigon; Hanoi; Da Nang
Asia/Jakarta: Bandung; Surabaya
Asia/Makassar: Bali; Denpasar
Asia/Jerusalem: Tel Aviv; Haifa
Asia/Karachi: Lahore; Islamabad; Rawalpindi; Faisalabad; Peshawar
Asia/Kathmandu: Kathmandu; Pokhara
Asia/Kolkata: Kolkata, Calcutta; Mumbai, Bombay; New Delhi; Delhi; Bangalore, Bengaluru;
    Chennai, Madras; Hyderabad; Pune; Ahmedabad; Jaipur; Lucknow; Surat; Goa; Kochi; Nagpur
Asia/Kuala_Lumpur: Kuala Lumpur, KL; Penang
Asia/Manila: Quezon City; Cebu; Davao
Asia/Riyadh: Jeddah; Mecca; Medina
Asia/Seoul: Busan; Incheon; Daegu
Asia/Shanghai: Shanghai; Beijing, Peking; Shenzhen; Guangzhou; Chengdu; Wuhan; Xi'an; Tianjin;
    Nanjing; Hangzhou; Suzhou; Qingdao; Lhasa; Dalian
Asia/Taipei: Kaohsiung
Asia/Tashkent: Samarkand
Asia/Tehran: Isfahan; Shiraz; Mashhad
Asia/Tokyo: Tokyo; Osaka; Kyoto; Yokohama; Nagoya; Sapporo; Kobe; Fukuoka; Hiroshima; Nara;
    Sendai; Nagasaki; Okinawa
Asia/Yangon: Yangon, Rangoon; Mandalay
Asia/Ulaanbaatar: Ulaanbaatar, Ulan Bator
Asia/Hong_Kong: Hong Kong, HK; Kowloon
Asia/Singapore: Singapore
Atlantic/Canary: Las Palmas; Tenerife
Atlantic/Reykjavik: Reykjavik
Australia/Sydney: Canberra; Wollongong
Australia/Brisbane: Gold Coast; Cairns; Townsville
Australia/Melbourne: Geelong
Australia/Darwin: Alice Springs
Europe/Amsterdam: Rotterdam; The Hague; Utrecht; Eindhoven
Europe/Athens: Thessaloniki
Europe/Belgrade: Novi Sad
Europe/Berlin: Munich, Muenchen, München; Hamburg; Frankfurt; Cologne, Koeln, Köln; Stuttgart;
    Dusseldorf, Duesseldorf; Leipzig; Dresden; Bremen; Hanover; Nuremberg; Heidelberg; Bonn
Europe/Brussels: Antwerp; Ghent; Bruges
Europe/Bucharest: Cluj
Europe/Copenhagen: Aarhus
Europe/Dublin: Cork; Galway; Limerick
Europe/Helsinki: Espoo; Tampere; Turku
Europe/Istanbul: Istanbul; Ankara; Izmir; Antalya
Europe/Kyiv: Kyiv, Kiev; Lviv; Odessa, Odesa; Kharkiv
Europe/Lisbon: Porto; Coimbra; Faro
Europe/London: London; Manchester; Birmingham; Liverpool; Leeds; Bristol; Sheffield; Newcastle;
    Oxford; Cambridge; Brighton; York; Edinburgh; Glasgow; Aberdeen; Cardiff; Belfast
Europe/Madrid: Barcelona; Seville; Valencia; Malaga; Bilbao; Granada
Europe/Moscow: Moscow; Saint Petersburg, St. Petersburg; Sochi; Kazan
Europe/Oslo: Bergen; Trondheim; Stavanger
Europe/Paris: Lyon; Marseille; Nice; Toulouse; Bordeaux; Lille; Strasbourg; Nantes; Cannes;
    Versailles
Europe/Prague: Brno
Europe/Riga: Riga
Europe/Rome: Milan; Naples; Turin; Florence; Venice; Bologna; Palermo; Genoa; Verona; Pisa
Europe/Stockholm: Gothenburg; Malmo; Uppsala
Europe/Vienna: Salzburg; Graz; Innsbruck
Europe/Warsaw: Krakow, Cracow; Gdansk; Wroclaw; Poznan; Lodz
Europe/Zurich: Geneva; Basel; Bern; Lausanne; Lucerne
Pacific/Auckland: Wellington; Christchurch; Queenstown; Dunedin
Pacific/Honolulu: Honolulu; Waikiki; Maui
Pacific/Port_Moresby: Port Moresby
Pacific/Fiji: Suva
"""

_REGIONS = """
Africa/Abidjan: Ivory Coast, Cote d'Ivoire
Africa/Accra: Ghana
Africa/Addis_Ababa: Ethiopia
Africa/Algiers: Algeria
Africa/Asmara: Eritrea
Africa/Bamako: Mali
Africa/Bangui: Central African Republic
Africa/Banjul: Gambia
Africa/Bissau: Guinea-Bissau
Africa/Blantyre: Malawi
Africa/Brazzaville: Congo, Republic of the Congo
Africa/Bujumbura: Burundi
Africa/Cairo: Egypt
Africa/Casablanca: Morocco
Africa/Conakry: Guinea
Africa/Dakar: Senegal
Africa/Dar_es_Salaam: Tanzania
Africa/Djibouti: Djibouti
Africa/Douala: Cameroon
Africa/Freetown: Sierra Leone
Africa/Gaborone: Botswana
Africa/Harare: Zimbabwe
Africa/Johannesburg: South Africa
Africa/Juba: South Sudan
Africa/Kampala: Uganda
Africa/Khartoum: Sudan
Africa/Kigali: Rwanda
Africa/Kinshasa: Kinshasa, Democratic Republic of the Congo, DR Congo, DRC
Africa/Lagos: Nigeria
Africa/Libreville: Gabon
Africa/Lome: Togo
Africa/Luanda: Angola
Africa/Lusaka: Zambia
Africa/Malabo: Equatorial Guinea
Africa/Maputo: Mozambique
Africa/Maseru: Lesotho
Africa/Mbabane: Eswatini, Swaziland
Africa/Mogadishu: Somalia
Africa/Monrovia: Liberia
Africa/Nairobi: Kenya
Africa/Ndjamena: Chad
Africa/Niamey: Niger
Africa/Nouakchott: Mauritania
Africa/Ouagadougou: Burkina Faso
Africa/Porto-Novo: Benin
Africa/Sao_Tome: Sao Tome and Principe
Africa/Tripoli: Libya
Africa/Tunis: Tunisia
Africa/Windhoek: Namibia
America/Anchorage: Alaska
America/Argentina/Buenos_Aires: Argentina
America/Asuncion: Paraguay
America/Barbados: Barbados
America/Belize: Belize
America/Bogota: Colombia
America/Caracas: Venezuela
America/Cayenne: French Guiana
America/Chicago: Texas; Illinois; Alabama; Arkansas; Iowa; Kansas; Louisiana; Minnesota;
    Mississippi; Missouri; Nebraska; North Dakota; Oklahoma; South Dakota; Tennessee; Wisconsin
America/Costa_Rica: Costa Rica
America/Denver: Colorado; Utah; Montana; New Mexico; Wyoming
America/Boise: Idaho
America/Edmonton: Alberta
America/El_Salvador: El Salvador
America/Guatemala: Guatemala
America/Guayaquil: Ecuador
America/Guyana: Guyana
America/Halifax: Nova Scotia; New Brunswick; Prince Edward Island
America/Havana: Cuba
America/Indiana/Indianapolis: Indiana
America/Jamaica: Jamaica
America/La_Paz: Bolivia
America/Lima: Peru
America/Los_Angeles: California; Nevada; Oregon; Washington State
America/Managua: Nicaragua
America/Mexico_City: Mexico City, Mexico
America/Montevideo: Uruguay
America/Nassau: Bahamas
America/New_York: Washington, United States, United States of America, USA, US, U.S., U.S.A.,
    America; Florida; Georgia USA; Massachusetts; Maryland; Michigan; New Jersey; New York
    State; North Carolina; South Carolina; Ohio; Pennsylvania; Virginia; West Virginia;
    Connecticut; Delaware; Kentucky; Maine; New Hampshire; Rhode Island; Vermont
America/Nuuk: Greenland
America/Panama: Panama
America/Paramaribo: Suriname
America/Phoenix: Arizona
America/Port-au-Prince: Haiti
America/Port_of_Spain: Trinidad and Tobago, Trinidad
America/Puerto_Rico: Puerto Rico
America/Regina: Saskatchewan
America/Santiago: Chile
America/Santo_Domingo: Dominican Republic
America/Sao_Paulo: Brasilia, Brazil
America/St_Johns: Newfoundland
America/Tegucigalpa: Honduras
America/Toronto: Ottawa, Canada; Ontario; Quebec
America/Vancouver: British Columbia
America/Winnipeg: Manitoba
Asia/Aden: Yemen
Asia/Almaty: Kazakhstan
Asia/Amman: Jordan
Asia/Ashgabat: Turkmenistan
Asia/Baghdad: Iraq
Asia/Bahrain: Bahrain
Asia/Baku: Azerbaijan
Asia/Bangkok: Thailand
Asia/Beirut: Lebanon
Asia/Bishkek: Kyrgyzstan
Asia/Brunei: Brunei
Asia/Colombo: Sri Lanka
Asia/Damascus: Syria
Asia/Dhaka: Bangladesh
Asia/Dili: East Timor, Timor-Leste
Asia/Dubai: United Arab Emirates, UAE, U.A.E., Emirates
Asia/Dushanbe: Tajikistan
Asia/Ho_Chi_Minh: Vietnam, Viet Nam
Asia/Hong_Kong: Hong Kong, Hongkong
Asia/Jakarta: Jakarta, Indonesia
Asia/Jerusalem: Israel
Asia/Kabul: Afghanistan
Asia/Karachi: Pakistan
Asia/Kathmandu: Nepal
Asia/Kolkata: India
Asia/Kuala_Lumpur: Malaysia
Asia/Kuwait: Kuwait
Asia/Macau: Macao, Macau
Asia/Manila: Philippines
Asia/Muscat: Oman
Asia/Nicosia: Cyprus
Asia/Phnom_Penh: Cambodia
Asia/Pyongyang: North Korea
Asia/Qatar: Qatar, Doha
Asia/Riyadh: Saudi Arabia
Asia/Seoul: South Korea, Korea
Asia/Shanghai: China
Asia/Singapore: Singapore
Asia/Taipei: Taiwan
Asia/Tashkent: Uzbekistan
Asia/Tbilisi: Georgia
Asia/Tehran: Iran
Asia/Thimphu: Bhutan
Asia/Tokyo: Japan
Asia/Ulaanbaatar: Mongolia
Asia/Vientiane: Laos
Asia/Yangon: Myanmar, Burma
Asia/Yerevan: Armenia
Atlantic/Azores: Azores
Atlantic/Bermuda: Bermuda
Atlantic/Canary: Canary Islands
Atlantic/Cape_Verde: Cape Verde
Atlantic/Reykjavik: Iceland
Australia/Adelaide: South Australia
Australia/Brisbane: Queensland
Australia/Darwin: Northern Territory
Australia/Hobart: Tasmania
Australia/Melbourne: Victoria Australia
Australia/Perth: Western Australia
Australia/Sydney: Canberra, Australia; New South Wales, NSW
Europe/Amsterdam: Netherlands, Holland
Europe/Andorra: Andorra
Europe/Athens: Greece
Europe/Belgrade: Serbia
Europe/Berlin: Germany, Deutschland
Europe/Bratislava: Slovakia
Europe/Brussels: Belgium
Europe/Bucharest: Romania
Europe/Budapest: Hungary
Europe/Chisinau: Moldova
Europe/Copenhagen: Denmark
Europe/Dublin: Ireland
Europe/Gibraltar: Gibraltar
Europe/Helsinki: Finland
Europe/Istanbul: Turkey, Turkiye
Europe/Kyiv: Ukraine
Europe/Lisbon: Portugal
Europe/Ljubljana: Slovenia
Europe/London: United Kingdom, UK, U.K., Great Britain, Britain; England; Scotland; Wales;
    Northern Ireland
Europe/Luxembourg: Luxembourg
Europe/Madrid: Spain
Europe/Malta: Malta
Europe/Minsk: Belarus
Europe/Monaco: Monaco
Europe/Moscow: Moscow, Russia
Europe/Oslo: Norway
Europe/Paris: France
Europe/Podgorica: Montenegro
Europe/Prague: Czech Republic, Czechia
Europe/Riga: Latvia
Europe/Rome: Italy
Europe/San_Marino: San Marino
Europe/Sarajevo: Bosnia, Bosnia and Herzegovina
Europe/Skopje: North Macedonia, Macedonia
Europe/Sofia: Bulgaria
Europe/Stockholm: Sweden
Europe/Tallinn: Estonia
Europe/Tirane: Albania, Tirana
Europe/Vaduz: Liechtenstein
Europe/Vatican: Vatican, Vatican City
Europe/Vienna: Austria
Europe/Vilnius: Lithuania
Europe/Warsaw: Poland
Europe/Zagreb: Croatia
Europe/Zurich: Switzerland
Indian/Antananarivo: Madagascar
Indian/Mahe: Seychelles
Indian/Maldives: Maldives
Indian/Mauritius: Mauritius
Indian/Reunion: Reunion
Pacific/Apia: Samoa
Pacific/Auckland: New Zealand, NZ
Pacific/Fiji: Fiji
Pacific/Guam: Guam
Pacific/Honolulu: Hawaii
Pacific/Port_Moresby: Papua New Guinea
Pacific/Tahiti: Tahiti
Pacific/Tongatapu: Tonga
Pacific/Galapagos: Galapagos Islands
"""

# Abbreviations mean a fixed offset where they name one season (PST), else the zone (PT).
_ABBREVIATIONS = """
Etc/UTC: UTC; GMT; Zulu
America/New_York: Eastern Time, ET, Eastern
America/Chicago: Central Time, CT, Central
America/Denver: Mountain Time, MT, Mountain
America/Los_Angeles: Pacific Time, PT, Pacific
Etc/GMT+5: EST, Eastern Standard Time
Etc/GMT+4: EDT, Eastern Daylight Time
Etc/GMT+6: CST, Central Standard Time
Etc/GMT+5: CDT, Central Daylight Time
Etc/GMT+7: MST, Mountain Standard Time
Etc/GMT+6: MDT, Mountain Daylight Time
Etc/GMT+8: PST, Pacific Standard Time
Etc/GMT+7: PDT, Pacific Daylight Time
Etc/GMT+10: HST
Etc/GMT+9: AKST
Etc/GMT-1: BST, British Summer Time
Etc/GMT-1: CET, Central European Time
Etc/GMT-2: CEST, Central European Summer Time
Etc/GMT-2: EET, Eastern European Time
Etc/GMT-3: EEST
Etc/GMT-3: MSK, Moscow Time
Asia/Kolkata: IST, India Standard Time, Indian Standard Time
Asia/Tokyo: JST, Japan Standard Time
Asia/Seoul: KST
Asia/Singapore: SGT
Asia/Hong_Kong: HKT
Asia/Karachi: PKT
Etc/GMT-10: AEST
Etc/GMT-11: AEDT
Etc/GMT-8: AWST
Etc/GMT-12: NZST
Etc/GMT-13: NZDT
"""


def _read(table: str) -> list[tuple[tuple[str, ...], str]]:
    """[((names...), zone), ...]"""
    places = []
    for line in table.replace("\n    ", " ").strip().splitlines():
        zone, _, rest = line.partition(": ")
        for names in rest.split(";"):
            spellings = tuple(name.strip() for name in names.split(","))
            places.append((spellings, zone))
    return places


CITIES = _read(_CITIES)
REGIONS = _read(_REGIONS)
ABBREVIATIONS = _read(_ABBREVIATIONS)
