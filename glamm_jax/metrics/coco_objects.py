"""The 80 object classes of COCO, and the words that name them in captions.

The words are the list of synonyms of the CHAIR metric (data/synonyms.txt of LisaAnne/Hallucination,
Rohrbach et al., Object Hallucination in Image Captioning, EMNLP 2018), without repetitions.
"""

from __future__ import annotations

# One class a line: its name in COCO's annotations, then the words that name it.
_LINES = """
person, girl, boy, man, woman, kid, child, chef, baker, people, adult, rider, children, baby,
    worker, passenger, sister, biker, policeman, cop, officer, lady, cowboy, bride, groom, male,
    female, guy, traveler, mother, father, gentleman, pitcher, player, skier, snowboarder,
    skater, skateboarder, foreigner, caller, offender, coworker, trespasser, patient,
    politician, soldier, grandchild, serviceman, walker, drinker, doctor, bicyclist, thief,
    buyer, teenager, student, camper, driver, solider, hunter, shopper, villager
bicycle, bike, unicycle, minibike, trike
car, automobile, van, minivan, sedan, suv, hatchback, cab, jeep, coupe, taxicab, limo, taxi
motorcycle, scooter, motor bike, motor cycle, motorbike, moped
airplane, jetliner, plane, air plane, monoplane, aircraft, jet, airbus, biplane, seaplane
bus, minibus, trolley
train, locomotive, tramway, caboose
truck, pickup, lorry, hauler, firetruck
boat, ship, liner, sailboat, motorboat, dinghy, powerboat, speedboat, canoe, skiff, yacht,
    kayak, catamaran, pontoon, houseboat, vessel, rowboat, trawler, ferryboat, watercraft,
    tugboat, schooner, barge, ferry, sailboard, paddleboat, lifeboat, freighter, steamboat,
    riverboat, battleship, steamship
traffic light, street light, traffic signal, stop light, streetlight, stoplight
fire hydrant, hydrant
stop sign
parking meter
bench, pew
bird, ostrich, owl, seagull, goose, duck, parakeet, falcon, robin, pelican, waterfowl, heron,
    hummingbird, mallard, finch, pigeon, sparrow, seabird, osprey, blackbird, fowl, shorebird,
    woodpecker, egret, chickadee, quail, bluebird, kingfisher, buzzard, willet, gull, swan,
    bluejay, flamingo, cormorant, parrot, loon, gosling, waterbird, pheasant, rooster,
    sandpiper, crow, raven, turkey, oriole, cowbird, warbler, magpie, peacock, cockatiel,
    lorikeet, puffin, vulture, condor, macaw, peafowl, cockatoo, songbird
cat, kitten, feline, tabby
dog, puppy, beagle, pup, chihuahua, schnauzer, dachshund, rottweiler, canine, pitbull, collie,
    pug, terrier, poodle, labrador, doggie, doberman, mutt, doggy, spaniel, bulldog, sheepdog,
    weimaraner, corgi, cocker, greyhound, retriever, brindle, hound, whippet, husky
horse, colt, pony, racehorse, stallion, equine, mare, foal, palomino, mustang, clydesdale,
    bronc, bronco
sheep, lamb, ram, goat, ewe
cow, cattle, oxen, ox, calf, holstein, heifer, buffalo, bull, zebu, bison
elephant
bear, panda
zebra
giraffe
backpack, knapsack
umbrella
handbag, wallet, purse, briefcase
tie, bow, bow tie
suitcase, suit case, luggage
frisbee
skis, ski
snowboard
sports ball, ball
kite
baseball bat
baseball glove
skateboard
surfboard, longboard, skimboard, shortboard, wakeboard
tennis racket, racket
bottle
wine glass
cup
fork
knife, pocketknife, knive
spoon
bowl, container
banana
apple
sandwich, burger, sub, cheeseburger, hamburger
orange
broccoli
carrot
hot dog
pizza
donut, doughnut, bagel
cake, cheesecake, cupcake, shortcake, coffeecake, pancake
chair, seat, stool
couch, sofa, recliner, futon, loveseat, settee, chesterfield
potted plant, houseplant
bed
dining table, table, desk
toilet, urinal, commode, lavatory, potty
tv, monitor, televison, television
laptop, computer, notebook, netbook, lenovo, macbook, laptop computer
mouse
remote
keyboard
cell phone, mobile phone, phone, cellphone, telephone, phon, smartphone, iPhone
microwave
oven, stovetop, stove, stove top oven
toaster
sink
refrigerator, fridge, freezer
book
clock
vase
scissors
teddy bear, teddybear
hair drier, hairdryer
toothbrush
"""


def _read() -> dict[str, tuple[str, ...]]:
    classes: dict[str, tuple[str, ...]] = {}
    for line in _LINES.strip().replace(",\n    ", ", ").splitlines():
        names = tuple(name.strip() for name in line.split(","))
        classes[names[0]] = names
    return classes


# Class -> the words that name it, itself first.
OBJECT_WORDS: dict[str, tuple[str, ...]] = _read()
# Words of the published list that its program never finds in a caption: it compares the first two
# with the space before them, and the third, with its capital, with captions in lower case.
UNMATCHED_WORDS = frozenset(("motor bike", "cheesecake", "iPhone"))
# Two words that are read as one, so that "hot dog" is no dog; what they are read as.
COMPOUNDS: dict[str, str] = {
    **{
        compound: compound
        for compound in (
            *("motor bike", "motor cycle", "air plane", "traffic light", "street light"),
            *("traffic signal", "stop light", "fire hydrant", "stop sign", "parking meter"),
            *("suit case", "sports ball", "baseball bat", "baseball glove", "tennis racket"),
            *("wine glass", "hot dog", "cell phone", "mobile phone", "teddy bear"),
            *("hair drier", "potted plant", "laptop computer", "home plate", "train track"),
        )
    },
    # "baby" and "adult" would be a person, and so would "passenger".
    **{
        f"{qualifier} {animal}": animal
        for qualifier in ("baby", "adult")
        for animal in (
            *("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra"),
            *("giraffe", "animal", "cub"),
        )
    },
    **{f"passenger {vehicle}": vehicle for vehicle in ("jet", "train")},
    "bow tie": "tie",
    "toilet seat": "toilet",
}
