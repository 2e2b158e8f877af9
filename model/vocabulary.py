"""Words of the small built-in tokenizer. Their order is their number: append, never insert or remove."""

WORDS = (
    # how instructions are built
    "a the to of in on at and with from into onto for it its this that then while by up down out off over under "
    "left right front back top bottom middle center side upper lower near behind above below between next "
    "inside outside away toward towards around through across along without until again not no is are be both "
    "each other same all one two three four five first second third last left-hand right-hand "
    # actions
    "pick place put move grasp grip hold release open close push pull lift lower raise drop take give hand turn "
    "rotate twist flip pour wipe clean fold unfold stack unstack insert remove press slide sweep stir shake "
    "reach approach retract return home go come stop wait stay keep drive carry bring deliver touch tap hit hang "
    "throw catch pack unpack load unload sort arrange align set lay stand tilt roll spin screw unscrew plug "
    "unplug zip unzip button scoop cut chop spread cover uncover fill empty collect gather bus fetch swap "
    "transfer hover point track follow avoid search find look navigate dock undock squeeze peel tear wrap unwrap "
    "picking placing moving grasping opening closing pushing pulling lifting lowering releasing reaching "
    "turning driving holding folding idle recover retry adjust correct regrasp "
    # things
    "block cube box ball cylinder bowl plate cup mug bottle can jar pot pan lid spoon fork knife spatula ladle "
    "towel cloth shirt shorts sock laundry garment napkin sponge brush drawer cabinet door handle knob shelf "
    "table desk counter sink stove oven microwave fridge dishwasher rack basket bin trash bag tray container "
    "carton egg eggs apple banana orange carrot corn pepper potato tomato bread toast coffee tea water milk "
    "grape lemon lime strawberry mushroom eggplant sushi cheese sandwich cake fruit vegetable food snack "
    "paper book pen pencil marker eraser tape rope cable cord wire plug socket switch lamp light phone laptop "
    "keyboard mouse remote charger battery screw nut bolt hammer screwdriver wrench pliers tool toy bear car "
    "train peg hole ring hook target goal zone spot mat pad corner edge surface wall floor base arm gripper "
    "robot wrist finger fingers torso object item thing things dish dishes utensil utensils glass chair bed "
    "pillow blanket curtain window button lever valve tap faucet cupboard coaster stand bench station "
    # looks
    "red green blue yellow purple orange pink brown black white gray grey cyan magenta dark bright small big "
    "large little tiny long short tall round square flat soft hard wooden metal plastic transparent full half "
    # motion phrases
    "forward backward backwards upward downward sideways clockwise counterclockwise slowly quickly gently "
    "carefully slightly straight still gripper's arm's arms hands single dual mobile joint motion segment task "
    "step steps position pose start end begin finish done ready"
)
