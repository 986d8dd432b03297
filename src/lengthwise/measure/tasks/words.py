"""Lists of words and names that the generators draw from."""

ADJECTIVES = tuple(
    """amber ancient blue brave brief bright brown calm careful clever cold copper crisp curious
    damp dark deep distant dry dusty eager early easy empty even faint famous fast fierce final
    firm flat fresh gentle giant glad golden grand gray great green happy hard heavy hidden high
    hollow honest huge humble idle inner iron jolly keen kind large late lazy light little lively
    lone long loose loud low loyal lucky mellow merry mild modest narrow neat new noble odd old
    open orange outer pale patient plain polite proud pure purple quick quiet rapid rare ready red
    rich rough round royal rustic safe sandy secret shallow sharp shiny short shy silent silver
    simple sleepy slim slow small smooth soft solid spare steady stern stiff still strange strict
    strong subtle sunny sweet swift tall tame tender thick thin tidy tiny tired tough true upper
    vast violet vivid warm wary weary wet white whole wide wild wise wooden yellow young""".split()
)

NOUNS = tuple(
    """acorn anchor apple arrow badge banner barn barrel basin basket beach beacon bell bench bird
    blanket boat bottle bowl branch bread breeze brick bridge brook broom bucket button cabin
    candle canyon carpet cart castle cave cellar chain chair chalk cherry chest chimney circle
    clock cloud coat coin compass copper corner cottage crane creek crown cup curtain desk dock
    donkey door drawer drum eagle engine falcon farm feather fence fern ferry field fire flag
    flame flask flower flute forest forge fox garden gate glacier glove goat grain grove hammer
    harbor hat hawk hedge hill hinge honey horn horse house island jacket jar kettle key kite
    ladder lake lamp lantern leaf ledge lemon letter lever lid lily map maple marble market
    meadow mill mirror moss mountain mule needle nest net oak oar orchard otter oven owl paddle
    page path pebble pencil pepper piano pigeon pillar pine pipe plank plate plow pond porch pot
    quarry quilt rabbit raft rail ramp raven reef ribbon ridge river road robe rock roof rope rose
    rug sail saddle salt sand scarf school shed sheep shelf shell shield ship shovel sign slope
    snow spade sparrow spoon spring square stable stair star stone stool stove straw stream street
    string summit table tent thorn thread tile timber torch tower trail tree trumpet tulip tunnel
    turtle valley vase veil vine violin wagon wall walnut wave well whale wharf wheat wheel willow
    window wing winter wolf wood wool yard""".split()
)

VERBS = tuple(
    """arrive bake begin bend borrow bring build carry carve catch choose clean climb close collect
    cook count cover cross cut dance deliver dig draw dream drift drive drop fall feed fetch fill
    find finish fix float fly fold follow gather give grow guard guide hang help hide hold hunt
    invite join jump keep knock laugh lead lean learn leave lend lift listen load lock look lose
    mark measure meet mend mix move notice offer order pack paint pass pause pay pick plant play
    point polish pour press pull push raise reach read repair rest return ride ring rise roll row
    run save sell send serve settle sew shake share shout show sing sink sit sleep slide smile
    sort speak spend spin stand start stay steer stop store sweep swim take talk teach tear tell
    tie touch trade travel trust try turn visit wait wake walk wander wash watch wave wear weave
    whisper win wipe wish work wrap write""".split()
)

NAMES = tuple(
    """Aaron Abigail Adela Agnes Albert Alice Amos Anita Arthur Astrid Barbara Basil Beatrice
    Bernard Bridget Bruno Carla Cecil Clara Conrad Cora Daphne David Delia Dennis Doris Edgar
    Edith Elena Elias Emma Ernest Esther Eva Felix Fiona Flora Frank Frieda George Gilbert Gloria
    Greta Gustav Hanna Harold Hazel Hector Helen Henry Hilda Hugo Ida Igor Irene Isaac Ivan Jacob
    Janet Jasper Joan Jonas Julia Karl Kate Klara Laura Leon Lidia Linda Louis Lucas Lucy Mabel
    Magda Marcus Maria Martha Martin Mia Miles Nadia Nathan Nelly Nina Nora Norman Olga Oliver
    Oscar Otto Paula Peter Petra Philip Quentin Rachel Ralph Rita Robert Rosa Rudolf Ruth Samuel
    Sara Selma Simon Sofia Stella Susan Theo Thomas Tilda Ursula Vera Victor Viola Walter Wanda
    Wilma Yvonne Zoe""".split()
)

ONSETS = tuple("b br c cl d dr f fl g gr h k l m n p pr r s st t tr v w".split())
VOWELS = tuple("a e i o u ai ea ou".split())
CODAS = tuple("l m n nd r rn s st t x".split())
