"""How people ask for each edit: a small grammar, written down once and expanded at random.

In a pattern `(a|b)` is a choice, `[a]` may be left out, `@` is a name of the picture, `{0}` a word of the edit.
"""

import hashlib
import re

PICTURE = (
    "(it|it|it|this|the image|the image|the photo|the photo|the picture|the picture|this image|this photo|"
    "this picture|my photo|my picture|my image|the photograph|this photograph|the whole (image|photo|picture)|"
    "the entire (image|photo|picture)|the (input|original|given) (image|photo|picture)|everything|the shot|the scene)"
)
GREY = "(black and white|black and white|black-and-white|black & white|b&w|grayscale|greyscale|gray scale|grey scale|monochrome|monochromatic|grayscale)"
COLOUR = "(color|colors|colour|colours)"
PHOTO = "(photo|image|picture|photograph|shot)"
KIND = "(filter|effect|look|style|tone|version)"
MORE = "(increase|raise|boost|enhance|turn up|crank up|improve|bump up|add|amplify|strengthen|up)"
LESS = "(decrease|reduce|lower|turn down|lessen|cut|drop|weaken|diminish|take down)"
THING = "({1} {0}|{1} {0}|{0}|{1} (one|shape|thing|object))"
CHANGE = "(turn|convert|change|transform|make|switch)"

PATTERNS = {
    "grey": f"""
        (make|turn|render|paint|get|convert|set) @ [(completely|fully|all)] ({GREY}|{GREY}|gray|grey|colorless|colourless|uncolored)
        (turn|convert|change|transform|switch|set|bring|put|render) @ (to|into|in|as) ({GREY}|shades of (gray|grey)|(gray|grey) tones|(gray|grey))
        {CHANGE} @ (into|to) a {GREY} {PHOTO}
        (remove|strip|drop|take away|delete|get rid of|take out|discard|eliminate|erase|kill|wash out) [all] [the] {COLOUR} [(from|of|in|out of) @]
        (remove|drop|take out|set to zero) [all] [the] saturation [(from|of) @]
        desaturate @ [(completely|fully|totally)]
        (fully|completely) desaturate @
        {GREY} [{KIND}]
        {GREY} {PHOTO}
        a {GREY} (version|copy) of @
        (apply|add|use|put|give @) a {GREY} (filter|effect|look|style) [(to|on) @]
        (i want|i would like|i'd like|i need|show|show me|give me|let me see) @ (in|to be in|to be) {GREY}
        (no|without|without any|zero) {COLOUR}
        @ in {GREY}
        @ should be {GREY}
        (make|create|produce|generate) a {GREY} (version|copy|{PHOTO}) [of @]
        (take|suck|drain|bleach) (the|all) {COLOUR} out [of @]
        (only|just) (gray|grey|black and white)
        {GREY} conversion
        make @ look like (a|an old) {GREY} (film|movie|{PHOTO})
        go {GREY}
        """,
    "invert": f"""
        (invert|reverse|negate|flip|inverse) [all] [the|its] {COLOUR} [(of|in) @]
        (invert|negate) @
        {CHANGE} @ (into|to) (a|its) [(photo|photographic|film|color|colour)] negative
        make @ [(look like|a)] [a] [(photo|photographic|film|color|colour)] negative
        [(photo|photographic|film|color|colour)] negative [{KIND}]
        (show|give|give me|show me|make|create|produce) (the|a) [(photo|film|color)] negative [(of|from) @]
        (apply|add|use) (a|an) (negative|invert|inverted|inversion) [{COLOUR}] (filter|effect|look) [(to|on) @]
        inverted {COLOUR}
        {COLOUR} inversion
        (use|show|swap to) (opposite|complementary|inverse|inverted) {COLOUR} [in @]
        (replace|change|swap) (the|all|every) {COLOUR} (with|to|by|for) (its|their|the) (opposite|opposites|complement|inverse|negative)
        (make|turn) @ inverted
        (make|turn) [the] {COLOUR} [of @] inverted
        @ as a negative
        an inverted (version|copy) of @
        {PHOTO} inversion
        swap (light and dark|black and white|the light and dark parts)
        make dark (parts|areas|pixels) light and light (parts|areas|pixels) dark
        """,
    "sepia": f"""
        (make|turn|render|convert|get) @ [(to|into|in|a)] [a] sepia [(photo|image|picture|tone|tones)]
        (apply|add|use|put|give @) a[n old] sepia (filter|effect|look|tone|style|toning) [(to|on) @]
        sepia [(tone|tones|filter|look|style|effect|photo|version|please)]
        sepia tone @
        (give|lend) @ (a|an) (vintage|old|antique|retro|nostalgic|aged|old-fashioned|historic|classic) [brown|brownish|sepia] (look|tone|style|feel|touch|appearance)
        make @ [look] (vintage|old|antique|retro|nostalgic|aged|old-fashioned|brownish|historic)
        make @ look like (an|a very) (old|antique|vintage|ancient|aged) [sepia|brown] {PHOTO}
        {CHANGE} @ (into|to) (an|a) (old|vintage|antique|retro) [sepia] {PHOTO}
        (vintage|old|antique|retro|nostalgic|old-time|old-timey) [brown|sepia] (photo|picture|look|style|tone|filter|effect|feel)
        (apply|add|use) (a|an) (vintage|old photo|antique|retro|nostalgic) [brown] (filter|effect|look|tone|style) [(to|on) @]
        (age|antique) @
        (brown|brownish|sepia) [vintage] (tones|tint|toning|tone) [(please|like an old photo)]
        give @ (brown|brownish|sepia) (tones|colors|colours)
        @ in sepia
        like (a|an) (photo|photograph|picture) from (1900|the 1900s|the 19th century|the past|long ago|grandma's album|an old album)
        make @ look (like|as if) it (is|was) [taken] (100|a hundred) years (old|ago)
        (tint|color|colour|tone) @ [in] (sepia|brown)
        """,
    "brighter": f"""
        make @ [(a bit|much|a lot|slightly|significantly)] (brighter|lighter|more bright|bright)
        (brighten|lighten|brighten up|light up|lighten up|illuminate) @
        {MORE} [the] (brightness|exposure|light|lightness|luminosity) [(of|in) @]
        (more|add|add more|add some|give @ more|let in more) (light|brightness|exposure) [(to|in) @]
        (brighter|lighter) [(please|image|photo|picture|version|exposure)]
        (turn|set) @ brighter
        [the] (image|photo|picture) is too (dark|dim) [fix it]
        @ is [much] too (dark|dim)[, (make it (brighter|lighter)|brighten it|lighten it)]
        overexpose @
        (turn|crank|bring) (the|up the) (brightness|light|lights|exposure) [up]
        a (brighter|lighter) (version|copy) of @
        make @ look (brighter|lighter|sunnier|like in bright light)
        @ should be (brighter|lighter)
        (i want|i would like|i'd like|i need) @ (brighter|lighter)
        (brightness|exposure) (up|plus|+)
        {CHANGE} @ (into|to) a (brighter|lighter) {PHOTO}
        raise the shadows and the brightness
        """,
    "darker": f"""
        make @ [(a bit|much|a lot|slightly|significantly)] (darker|dimmer|more dark|dark|dim)
        (darken|dim|darken down|shade|underexpose) @
        {LESS} [the] (brightness|exposure|light|lightness|luminosity) [(of|in) @]
        (less|give @ less|with less) (light|brightness|exposure) [(in) @]
        (darker|dimmer) [(please|image|photo|picture|version|exposure)]
        (turn|set) @ (darker|dark)
        [the] (image|photo|picture) is too (bright|light) [fix it]
        @ is [much] too (bright|light)[, (make it (darker|dimmer)|darken it|dim it)]
        (turn|bring) (the|down the) (brightness|light|lights|exposure) [down]
        a (darker|dimmer) (version|copy) of @
        make @ look (darker|like night|like at night|gloomier|dim)
        @ should be (darker|dimmer)
        (i want|i would like|i'd like|i need) @ (darker|dimmer)
        (turn|change) @ (into|to) night
        make it (night|nighttime|night time)
        (brightness|exposure) (down|minus|-)
        {CHANGE} @ (into|to) a (darker|dimmer) {PHOTO}
        """,
    "warmer": f"""
        make @ [(a bit|much|a lot|slightly)] (warmer|warm|more warm|more golden)
        make [the] {COLOUR} [of @] (warmer|warm)
        (warm|warm up) @
        (warm|warm up) the {COLOUR} [(of|in) @]
        (add|use|apply|give @|bring in) [(more|some|a touch of)] (warm|warmer|golden) (tones|colors|colours|light|hues)
        (add|apply|use|give @|put) a (warm|warming|warmer|golden|golden hour|sunset) (filter|effect|look|tone|light|glow|feel|mood|color temperature) [(to|on) @]
        (warmer|warm) [(tones|colors|colours|light|look|white balance|color temperature|please|version)]
        (raise|increase) the (color|colour) temperature [of @]
        give @ [a] (warm|cozy|cosy) (sunset|sunny|summer|evening) (light|mood|feel|look)
        (golden hour|sunset) (light|look|mood|style|lighting)
        add (warmth|more warmth|some warmth) [to @]
        more (warmth|golden light)
        (shift|move|adjust) the white balance (to|towards) (warm|warmer)
        @ should (be|look|feel) warmer
        a warmer (version|copy) of @
        make @ look (warmer|like at sunset|like summer|cozy)
        """,
    "cooler": f"""
        make @ [(a bit|much|a lot|slightly)] (cooler|colder|cool|cold|more cool|icier|chilly)
        make [the] {COLOUR} [of @] (cooler|colder|cool|cold)
        (cool|cool down|chill) @
        (cool|cool down) the {COLOUR} [(of|in) @]
        (add|use|apply|give @|bring in) [(more|some|a touch of)] (cool|cooler|cold|colder|icy) (tones|colors|colours|light|hues)
        (add|apply|use|give @|put) a (cool|cooling|cooler|cold|icy|winter|wintry|frosty) (filter|effect|look|tone|light|feel|mood|color temperature) [(to|on) @]
        (cooler|colder|cool|cold) [(tones|colors|colours|light|look|white balance|color temperature|please|version)]
        (lower|decrease|reduce) the (color|colour) temperature [of @]
        give @ [a] (cold|cool|icy|chilly) (winter|morning|night) (light|mood|feel|look)
        (winter|icy|frosty) (light|look|mood|style|lighting|tones)
        add (coolness|coldness|a chill) [to @]
        (shift|move|adjust) the white balance (to|towards) (cool|cooler|cold)
        @ should (be|look|feel) (cooler|colder)
        a (cooler|colder) (version|copy) of @
        make @ look (cooler|colder|like winter|wintry|frosty|icy)
        """,
    "more contrast": f"""
        {MORE} [the] contrast [(of|in) @]
        (more|higher|stronger|extra|high|strong|harsh|hard|maximum) contrast [please]
        (make|give) @ [(a|have)] [(much|a lot)] (more|higher|stronger|high|greater) contrast
        make @ (more|very) (contrasty|punchy|dramatic)
        make @ (high contrast|high-contrast)
        (add|give @|use|apply) (more|some|strong|stronger|extra|high) contrast [(to|in) @]
        (make|turn) the contrast (stronger|higher|up|harsher)
        (deepen|make deeper) the (blacks|shadows) and (brighten|lighten) the (whites|highlights)
        @ (needs|should have) (more|higher|stronger) contrast
        (contrast) (up|plus|+|boost|enhancement)
        a (high contrast|high-contrast|more contrasty) (version|copy|look) [of @]
        make (dark parts darker and light parts lighter|darks darker and lights lighter|the blacks blacker and the whites whiter)
        (sharpen|widen) the tonal range
        """,
    "less contrast": f"""
        {LESS} [the] contrast [(of|in) @]
        (less|lower|weaker|softer|low|little|weak|soft|minimal) contrast [please]
        (make|give) @ [(a|have)] [(much|a lot)] (less|lower|weaker|low|softer) contrast
        make @ (flat|flatter|faded|more faded|washed out|hazy|foggy|matte|pale|paler)
        make @ (low contrast|low-contrast)
        make @ look (flat|faded|washed out|washed-out|hazy|foggy|matte|pale|bleached)
        (fade|flatten|wash out) @
        (use|apply|add|give @) (a|less|low) (faded|matte|washed out|flat|hazy|low contrast|contrast) [(filter|effect|look|style)] [(to|on) @]
        (faded|matte|washed out|flat|hazy) (look|style|effect|filter|colors|colours)
        (make|turn) the contrast (weaker|lower|down|softer)
        @ (needs|should have) (less|lower|weaker) contrast
        (contrast) (down|minus|-|reduction)
        a (low contrast|low-contrast|faded|flat) (version|copy|look) [of @]
        soften the contrast [(of|in) @]
        """,
    "vivid": f"""
        make @ [(much|a lot|a bit|way)] (more|very) (colorful|colourful|vivid|vibrant|saturated|intense)
        make @ (colorful|colourful|vivid|vibrant|saturated)
        make [the] {COLOUR} [(of|in) @] [(much|a lot)] [more] (vivid|vibrant|pop|stronger|richer|intense|saturated|brilliant)
        {MORE} [the] (saturation|color saturation|vibrance|vibrancy|color intensity|colour intensity|colorfulness) [(of|in) @]
        (boost|enhance|intensify|strengthen|saturate|enrich|amplify|punch up|pump up) [the|all] {COLOUR} [(of|in) @]
        (saturate|oversaturate) @
        (more|stronger|richer|intense|extra) (saturation|vibrance|vivid colors|color|colour|colors|colours)
        (more|very) (vivid|vibrant|colorful|colourful|saturated) [{COLOUR}]
        (vivid|vibrant|rich|saturated|intense|strong) {COLOUR} [please]
        (add|apply|use|give @) (a|more) (vivid|vibrant|colorful|saturated|saturation|vibrance) [(filter|effect|look|colors|colours)] [(to|on) @]
        let the {COLOUR} pop
        @ (needs|should have) (more|stronger|richer) (saturation|color|colour|colors|colours)
        (saturation|vibrance) (up|plus|+|boost)
        a more (vivid|vibrant|colorful|colourful|saturated) (version|copy) of @
        """,
    "blur": """
        (blur|defocus|smear|blur out) @
        make @ [(a bit|very|more|much more|slightly)] (blurry|blurred|blurrier|fuzzy|soft|softer|unsharp|out of focus|defocused|unfocused)
        (apply|add|use|put|give @) (a|some|more) [(gaussian|lens|soft|strong)] (blur|blurring|softening|soft focus) [(effect|filter)] [(to|on) @]
        (apply|add|use|more|some) [gaussian] blur [(to|on|in) @]
        (gaussian|lens|soft) (blur|focus) [please]
        (soften|unsharpen|unfocus|smooth|smooth out) @
        (out of focus|blurred|blurry|unsharp|fuzzy|soft focus) [(photo|image|picture|look|version)]
        (reduce|remove|decrease|lower) [the] (sharpness|detail|details|focus) [(of|in) @]
        (put|take|turn) @ out of focus
        less sharp
        make @ less (sharp|detailed|crisp)
        @ should be (blurry|blurred|out of focus)
        a (blurred|blurry|soft) (version|copy) of @
        make @ look (blurry|blurred|out of focus|like through fog|soft)
        """,
    "pixelate": f"""
        (pixelate|pixelize|pixellate|pixelise|mosaic) @
        make @ [(look|more|very)] (pixelated|pixely|pixelized|blocky|8-bit|8 bit|mosaic)
        {CHANGE} @ (into|to) [a] (pixel art|pixels|mosaic|8-bit art|big pixels|blocks)
        (apply|add|use|put|give @) (a|some) (pixel|pixelated|pixelation|mosaic|pixelate|8-bit|pixel art|censor) (filter|effect|look|style) [(to|on) @]
        (pixel art|pixelated|pixelation|8-bit|8 bit|mosaic|pixel) [(style|look|effect|version|please)]
        make @ look like (an|a) (8-bit game|old video game|pixel art|mosaic|retro game|minecraft)
        (use|show|with|make) (big|large|huge|visible|coarse) (pixels|blocks|squares)
        (show|render|draw|redraw) @ (in|with|as) (big pixels|large pixels|pixel art|a mosaic|blocks)
        (reduce|lower|decrease) the resolution [of @]
        low resolution [pixels]
        censor @ [with pixels]
        a (pixelated|blocky) (version|copy) of @
        @ should be pixelated
        """,
    "tint": """
        (tint|color|colour|dye|shade|tone) @ [in] {0}
        (make|turn|paint|color) (it|this|the image|the photo|the picture|this photo|this picture|everything|the whole image|all) [all] [completely] {0}
        (give|lend) @ (a|an) [(strong|light)] {0} (tint|tone|hue|shade|cast|look|wash|touch)
        (apply|add|use|put) (a|an) [(strong|transparent)] {0} (filter|tint|tone|overlay|effect|color filter|hue|wash|cast) [(to|on|over) @]
        {0} (tint|filter|tone|overlay|toned|tinted|monochrome) [please]
        (turn|change|shift) [all] the (colors|colours) [of @] (to|into) {0}
        (change|shift|set) the (color|colour|hue) (of @|of it) to {0}
        (make|turn) @ {0}-tinted
        (make|turn) @ {0} tinted
        @ in {0} [(tones|shades|light|color)]
        (bathe|put|drown) @ in {0} [light]
        (a|an) {0} (tinted|toned) (version|copy) of @
        (everything|all) [should be|in] {0}
        look at @ through {0} (glass|glasses)
        {0} (light|lighting|tones|hue)
        """,
    "unchanged": f"""
        (keep|leave) @ [(exactly|just)] (as it is|the same|unchanged|as is|untouched|unedited|like it is|identical|alone)
        (do not|don't|never) (change|edit|modify|alter|touch|do) (anything|@|a thing)
        (do nothing|no change|no changes|no edit|nothing|unchanged|the same|same (image|photo|picture)|same|none|no editing)
        (change|edit|modify|alter) nothing
        (return|output|give me|show|give back|reproduce|repeat|copy) (the (same|original|identical) {PHOTO}|@ [(unchanged|as it is|as is)])
        (just|simply|only) (copy|return|keep|repeat) @
        (copy|reproduce|duplicate) @ [exactly]
        @ (should|must|can) (stay|remain|be kept) (the same|unchanged|as it is|as is)
        let @ (be|stay as it is|stay the same)
        (identity|original|the original {PHOTO})
        (with no|without|make no|without any) (changes|change|edits|modifications)
        """,
    # What the model cannot do leaves the picture alone. `~` is a word that it does not know.
    "unknown": """
        (add|put|place|draw|insert) (a|an|some|the) ~ [(on|to|in|near|behind) (@|the ~|a ~)]
        (remove|delete|erase|get rid of|take away) (the|all|every) ~ [(from|in) @]
        (replace|swap|exchange) (the|a) ~ (with|by|for) (a|an) ~
        (make|turn|change|convert|transform) @ [(into|to|look like)] [(a|an)] ~ [~]
        (make|let) (the|a) ~ (~|look ~|wear a ~|hold a ~)
        in the style of ~ [~]
        (zoom|rotate|crop|resize|mirror|flip) @ [~]
        ~ [~] [~] [~]
        (what is|describe|who is) (in @|the ~)
        write ~ on @
        """,
    "background": """
        (make|turn|paint|color|colour) the background [(to|into)] {0}
        (change|set|switch|turn) the background [(color|colour)] (to|into) {0}
        (replace|swap|fill|paint|recolor|cover) the background (with|in|by) {0}
        (use|give it|put in|add|i want|with) a {0} background
        {0} background [please]
        the background should be {0}
        (put|place) (it|them|the shapes|the objects) (on|in front of) (a {0} background|{0})
        (make|turn|change) the (color|colour) of the background [to] {0}
        """,
    "recolour": f"""
        (make|turn|paint|color|colour|dye) the {THING} {{2}}
        (change|turn|set|switch|recolor) the {THING} (to|into) {{2}}
        (change|set|switch) the (color|colour) of the {THING} (to|into) {{2}}
        the {THING} should be {{2}}
        (make|turn) the {{0}} from {{1}} to {{2}}
        (replace|swap) the {{1}} {{0}} (with|by|for) a {{2}} (one|{{0}})
        i want the {THING} to be {{2}}
        """,
    "scene": """
        a {1} {0} on (a {2}|{2}) background
        (draw|paint|create|generate|show) a {1} {0} on (a {2}|{2}) background
        {1} {0}, {2} background
        """,
}
POLITE = ("please ", "please ", "can you ", "could you ", "could you please ", "would you ", "i want you to ", "now ",
          "hey, ", "hi, ", "ok, ", "just ", "let's ", "kindly ", "please, ", "can you please ", "i'd like you to ",
          "try to ", "go ahead and ", "for this photo: ", "edit: ", "task: ", "instruction: ")
AFTER = (" please", ", please", " for me", " now", ", thanks", ", thank you", " thanks", " a bit", " as much as you can",
         ", keep everything else", " and keep the rest", " and keep everything else the same", " but keep the details",
         " without changing anything else", ", no other changes", " while keeping the composition", " like in a movie",
         ", high quality", ", best quality", ", detailed")
HELD_OUT_SHARE = 0.08


def compiled(pattern):
    """A pattern -> nested lists: ("all", parts), ("one", options), or plain text."""
    at = 0

    def sequence(ends):
        nonlocal at
        parts = []
        while at < len(pattern) and pattern[at] not in ends:
            if pattern[at] in "([":
                optional = pattern[at] == "["
                at += 1
                options = [sequence("|)]")]
                while pattern[at] == "|":
                    at += 1
                    options.append(sequence("|)]"))
                at += 1
                parts.append(("one", [*options, *[""] * len(options)] if optional else options))
            else:
                start = at
                while at < len(pattern) and pattern[at] not in "([|)]":
                    at += 1
                parts.append(pattern[start:at])
        return ("all", parts)

    return sequence("")


def draw(node, rng):
    if isinstance(node, str):
        return node
    kind, parts = node
    return draw(rng.choice(parts), rng) if kind == "one" else "".join(draw(part, rng) for part in parts)


GRAMMAR = {family: [compiled(line.strip().replace("@", PICTURE)) for line in lines.strip().splitlines()]
           for family, lines in PATTERNS.items()}
UNKNOWN = "~"


def held_out_wording(core):
    return hashlib.sha256(core.encode()).digest()[0] < 256 * HELD_OUT_SHARE


def core(rng, family, words=(), held_out=False):
    """An instruction without ornaments, from the training or the held-out share of the wordings."""
    while True:
        text = re.sub(r"\s+", " ", draw(rng.choice(GRAMMAR[family]), rng)).strip()
        if held_out_wording(text) == held_out:
            return text.format(*words)


def dressed(rng, text):
    """Politeness, capitals and punctuation around it."""
    if rng.random() < 0.3:
        text = rng.choice(POLITE) + text
    if rng.random() < 0.2:
        text += rng.choice(AFTER)
    style = rng.random()
    if style < 0.4:
        text = text[:1].upper() + text[1:]
    elif style < 0.47:
        text = text.upper()
    elif style < 0.51:
        text = text.title()
    return text + rng.choice(("", "", "", "", ".", ".", ".", "!", "?", " .", "..."))


def say(rng, family, words=(), held_out=False):
    return dressed(rng, core(rng, family, words, held_out))


# Written by hand, apart from the grammar, and never trained on: what a stranger may type.
STRANGERS = {
    "grey": ["Convert this photo to grayscale", "Make the image black and white, please.", "make it monochrome",
             "Remove all colour", "I'd love to see this in black and white", "old school black and white photography",
             "MAKE IT BLACK AND WHITE", "Could this be a grayscale picture?", "get rid of the color",
             "please desaturate this photo of a dog completely"],
    "invert": ["Turn this picture into a negative", "Invert the colors of this photo.", "make a film negative out of it",
               "color inversion please", "Please invert everything in this image", "I want the negative of the photo"],
    "sepia": ["give it a vintage brown tone", "Make it a sepia photo", "Turn the picture into an antique sepia print",
              "make it look like an old photograph from my grandparents", "sepia effect, please",
              "Could you give this a sepia tone?"],
    "brighter": ["Brighten this up", "make the picture brighter please", "It's too dark, increase the brightness",
                 "Could you make this photo a little brighter?", "Increase exposure of the image"],
    "darker": ["Darken this image a lot", "please make the photo darker", "Reduce the brightness of my picture",
               "it is too bright, make it darker", "dim the lights in this photo"],
    "warmer": ["Give the photo warmer colors", "make this image feel warmer", "Add a warm golden tone to the picture",
               "warm up this photo a bit", "Apply a warming filter."],
    "cooler": ["Give the photo cooler colors", "make this image feel colder", "Add a cold icy tone to the picture",
               "cool down this photo a bit", "Apply a cooling filter."],
    "more contrast": ["Increase contrast", "I want much more contrast in this picture", "Boost contrast in the photo!",
                      "make the image high contrast", "Please give the photo stronger contrast"],
    "less contrast": ["Decrease contrast", "I want much less contrast in this picture", "Lower contrast in the photo!",
                      "make the image low contrast", "Please give the photo a faded look"],
    "vivid": ["Make the colors more vibrant", "increase saturation", "I want this picture to be more colorful",
              "Boost the saturation of the photo", "more vivid colours please"],
    "blur": ["Blur the photo", "make everything blurry", "Apply a Gaussian blur to this picture.",
             "I want the image out of focus", "please blur this image a lot"],
    "pixelate": ["Pixelate the photo", "make it look like pixel art", "Turn this image into a pixelated mosaic.",
                 "I want big pixels", "apply a pixelation effect to the picture"],
    "tint": ["Give the photo a {0} tint", "tint this picture {0}", "Apply a {0} color filter.", "make it {0}",
             "Please color everything {0}"],
    "unchanged": ["keep the photo as it is", "Don't change anything.", "leave this picture unchanged please",
                  "Return the same image", "no changes at all"],
    "background": ["change the background to {0}", "Make the background {0}.", "I want a {0} background"],
    "recolour": ["make the {1} {0} {2}", "Change the color of the {0} to {2}.", "Turn the {1} {0} {2}"],
}
