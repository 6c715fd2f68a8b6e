"""Simple facts in pairs: capitals, opposites, animals, plurals, and how to ask for them."""

# ruff: noqa: E501  (a phrase reads best on one line)

from random import Random

from k2mlx.synth.phrasing import render

_CAPITALS = (
    "France=Paris,Germany=Berlin,Italy=Rome,Spain=Madrid,Portugal=Lisbon,Norway=Oslo,Sweden=Stockholm,"
    "Denmark=Copenhagen,Finland=Helsinki,Poland=Warsaw,Austria=Vienna,Switzerland=Bern,Belgium=Brussels,"
    "Ireland=Dublin,Greece=Athens,Turkey=Ankara,Egypt=Cairo,Kenya=Nairobi,Nigeria=Abuja,Ghana=Accra,"
    "Morocco=Rabat,India=New Delhi,China=Beijing,Japan=Tokyo,South Korea=Seoul,Thailand=Bangkok,Vietnam=Hanoi,"
    "Indonesia=Jakarta,Australia=Canberra,New Zealand=Wellington,Canada=Ottawa,Mexico=Mexico City,"
    "Brazil=Brasilia,Argentina=Buenos Aires,Chile=Santiago,Peru=Lima,Colombia=Bogota,Cuba=Havana,"
    "Iceland=Reykjavik,Hungary=Budapest,Romania=Bucharest,Bulgaria=Sofia,Croatia=Zagreb,Serbia=Belgrade,"
    "Ukraine=Kyiv,Russia=Moscow,Iran=Tehran,Iraq=Baghdad,Nepal=Kathmandu,Pakistan=Islamabad,"
    "Bangladesh=Dhaka,the Netherlands=Amsterdam,the Philippines=Manila,Malaysia=Kuala Lumpur,England=London,"
    "Scotland=Edinburgh,the United States=Washington,Ethiopia=Addis Ababa,Senegal=Dakar,Uruguay=Montevideo,"
    "Ecuador=Quito,Venezuela=Caracas,Estonia=Tallinn,Latvia=Riga,Lithuania=Vilnius,the Czech Republic=Prague"
)
_OPPOSITES = (
    "hot=cold,big=small,tall=short,fast=slow,old=young,happy=sad,light=dark,early=late,easy=hard,full=empty,"
    "clean=dirty,rich=poor,strong=weak,wet=dry,high=low,open=closed,up=down,left=right,day=night,good=bad,"
    "loud=quiet,soft=hard,thick=thin,near=far,first=last,black=white,true=false,sweet=sour,heavy=light,"
    "wide=narrow,cheap=expensive,inside=outside,always=never,begin=end,buy=sell,win=lose,love=hate,"
    "brave=afraid,kind=mean,rough=smooth,safe=dangerous,north=south,east=west,push=pull,give=take,come=go"
)
_PLURALS = (
    "child=children,mouse=mice,foot=feet,tooth=teeth,man=men,woman=women,person=people,goose=geese,sheep=sheep,"
    "leaf=leaves,knife=knives,wolf=wolves,city=cities,baby=babies,box=boxes,bus=buses,potato=potatoes,fish=fish"
)
_YOUNG = (
    "dog=puppy,cat=kitten,cow=calf,horse=foal,sheep=lamb,pig=piglet,chicken=chick,duck=duckling,bear=cub,"
    "lion=cub,goat=kid,frog=tadpole,swan=cygnet,deer=fawn,owl=owlet"
)
_SOUNDS = "dog=bark,cat=meow,cow=moo,duck=quack,sheep=bleat,lion=roar,horse=neigh,pig=oink,bird=sing,snake=hiss"
_NEXT = (
    "Monday=Tuesday,Tuesday=Wednesday,Wednesday=Thursday,Thursday=Friday,Friday=Saturday,Saturday=Sunday,"
    "Sunday=Monday,January=February,February=March,March=April,April=May,May=June,June=July,July=August,"
    "August=September,September=October,October=November,November=December,December=January"
)
_LANGUAGES = (
    "France=French,Germany=German,Italy=Italian,Spain=Spanish,Portugal=Portuguese,Japan=Japanese,China=Chinese,"
    "Russia=Russian,Brazil=Portuguese,Mexico=Spanish,Egypt=Arabic,Sweden=Swedish,Poland=Polish,Greece=Greek,"
    "Norway=Norwegian,Turkey=Turkish,Argentina=Spanish,Austria=German,Thailand=Thai,Hungary=Hungarian,"
    "Finland=Finnish,Denmark=Danish,Vietnam=Vietnamese,Morocco=Arabic,Chile=Spanish,Peru=Spanish"
)
_CONTINENTS = (
    "France=Europe,Kenya=Africa,Japan=Asia,Brazil=South America,Canada=North America,Egypt=Africa,India=Asia,"
    "Peru=South America,Norway=Europe,Mexico=North America,China=Asia,Ghana=Africa,Italy=Europe,Nepal=Asia,"
    "Chile=South America,Poland=Europe,Thailand=Asia,Nigeria=Africa,Spain=Europe,Argentina=South America"
)
_DEFINITIONS = (
    "a hammer=a tool for driving nails,a library=a place where you can borrow books,a doctor=a person who helps sick people,"
    "a bakery=a shop that makes and sells bread,a bridge=something that lets you cross a river,"
    "a farmer=a person who grows food and keeps animals,a museum=a place where old or beautiful things are shown,"
    "a kettle=a pot for boiling water,a teacher=a person who helps others learn,a desert=a dry place with little rain,"
    "an island=land with water all around it,a river=water that flows through the land to the sea,"
    "a map=a drawing that shows where places are,a pillow=something soft for your head when you sleep,"
    "a key=a small thing that opens a lock,a forest=a large place full of trees,a chair=a thing to sit on,"
    "a clock=a thing that shows the time,a village=a place with houses that is smaller than a town,"
    "an umbrella=something that keeps the rain off you,a pilot=a person who flies a plane,"
    "a spoon=a tool for eating soup,a dictionary=a book that explains words,a mirror=a glass in which you see yourself,"
    "a garden=a place where plants are grown,a ship=a large boat,a cook=a person who makes food,"
    "a hospital=a place where sick people are cared for,a recipe=a list of steps for making a dish,"
    "a neighbour=a person who lives next to you,a thermometer=a thing that measures how warm it is,"
    "a nurse=a person who cares for sick people,a compass=a thing that points north,a vet=a doctor for animals"
)
# (questions about {a}, answers with {b}, pairs "a=b").
TABLES: tuple[tuple[tuple[str, ...], tuple[str, ...], str], ...] = (
    (("what is the capital of {a}?", "what's the capital of {a}?", "which city is the capital of {a}?", "capital of {a}?",
      "tell me the capital of {a}", "do you know the capital of {a}?", "name the capital of {a}", "and of {a}?"),
     ("The capital of {a} is {b}.", "{b} is the capital of {a}.", "It is {b}.", "{b}.", "That is {b}."), _CAPITALS),
    (("what is the opposite of {a}?", "what's the opposite of {a}?", "opposite of {a}?", "tell me the opposite of {a}",
      "which word means the opposite of {a}?"),
     ("The opposite of {a} is {b}.", "{b}.", "It is {b}.", "{a} and {b} are opposites."), _OPPOSITES),
    (("what is the plural of {a}?", "what's the plural of {a}?", "how do you say more than one {a}?"),
     ("The plural of {a} is {b}.", "One {a}, two {b}.", "{b}."), _PLURALS),
    (("what is a young {a} called?", "what do you call a baby {a}?", "what's a baby {a} called?"),
     ("A young {a} is called a(n) {b}.", "It is called a(n) {b}.", "A(n) {b}."), _YOUNG),
    (("what sound does a {a} make?", "what does a {a} do when it makes a noise?"),
     ("A {a} can {b}.", "It can {b}."), _SOUNDS),
    (("what comes after {a}?", "which one comes after {a}?", "what follows {a}?"),
     ("{b} comes after {a}.", "{b}.", "After {a} comes {b}."), _NEXT),
    (("what language do they speak in {a}?", "which language is spoken in {a}?", "what do people speak in {a}?"),
     ("In {a} people speak {b}.", "They speak {b}.", "{b}."), _LANGUAGES),
    (("which continent is {a} in?", "where is {a}?", "on which continent is {a}?"),
     ("{a} is in {b}.", "It is in {b}.", "In {b}."), _CONTINENTS),
    (("what is {a}?", "what does {a} mean?", "explain {a}", "can you explain what {a} is?", "tell me what {a} is"),
     ("It is {b}.", "{a} is {b}.", "That is {b}."), _DEFINITIONS),
)  # fmt: skip


def fact(rng: Random) -> tuple[str, str]:
    """(question, answer)."""
    questions, answers, pairs = rng.choice(TABLES + TABLES[:1] * 3)
    a, b = rng.choice(pairs.split(",")).split("=")
    scope = {"a": a, "b": b}
    return render(rng.choice(questions), scope, rng), render(rng.choice(answers), scope, rng)
