# SPDX-License-Identifier: Apache-2.0
"""Conversations made from the tales: requests whose answers are pieces of the training texts.

Every answer that comes from a tale ends where a paragraph ends, so the model learns to stop there. The few lines that
do not come from the tales (greetings, thanks, questions of fact) are written here; the model knows no facts and is
taught to say so and to offer a tale.
"""
import re

STORY_CHARS = (250, 3300)  # a whole tale as an answer: what fits into a row of the second phase

THINGS = """fox wolf lion bear dog cat mouse rat hare rabbit tortoise turtle crow raven eagle owl cock hen goose duck swan
frog toad snake serpent dragon monkey ape elephant jackal hyena tiger leopard crocodile horse ass donkey ox bull cow
goat sheep lamb pig deer stag fish bee ant spider lizard fly king queen prince princess knight giant dwarf witch
fairy wizard magician ogre merchant miller farmer shepherd fisherman hunter woodcutter tailor smith soldier thief robber
beggar hermit monk servant cook boy girl child brother sister mother father son daughter wife husband grandmother
stepmother old~woman old~man giantess mermaid goddess god ghost devil castle forest sea river mountain island ship sword ring
tree apple treasure well mill village town moon sun wind rain star stone flower garden market school baby teacher
bird parrot peacock squirrel hedgehog camel slave sultan emperor chief warrior maiden youth""".split()

TELL = ["Tell me a story about {}.", "Tell me a tale about {}.", "Can you tell me a story about {}?",
        "I would like to hear a story about {}.", "Please tell me a short tale about {}.", "A story about {}, please.",
        "Tell me a short story about {}.", "Write a story about {}.", "Write a short fairy tale about {}.",
        "tell me a story about {}", "Do you know a tale about {}?", "Tell us about {}."]
ANY = ["Tell me a story.", "Tell me a tale.", "Please tell me a short story.", "Can you tell me a fairy tale?",
       "A story, please.", "Tell me a bedtime story.", "tell me a story", "Write a short story.", "Tell me something.",
       "I am bored. Tell me a story."]
TITLE = ['Tell me the tale "{}".', 'Tell me the story called "{}".', "Tell me the story of {}.", "Tell me {}.",
         'Write a tale with the title "{}".', "Do you know the tale {}?"]
GO_ON = ["Go on from this line: {}", "Continue this story: {}", "Go on: {}", "What comes next? {}",
         "Continue: {}", "Finish this tale: {}", "Go on with this tale.\n\n{}"]
BEGIN = ["How does the tale of {} begin?", 'How does "{}" begin?', "Begin the story of {}."]
END = ["How does the tale of {} end?", 'How does "{}" end?', "Tell me the end of {}.", "What happens at the end of {}?"]
END_OF = ["How does it end? {}", "How does this story end? {}", "Give this tale an ending: {}"]
MORE = ["And then?", "Go on.", "What happened next?", "Please go on.", "Tell me more.", "Continue."]
HOW_END = ["How does it end?", "And how does it end?", "What happened in the end?", "Tell me the end."]
ANOTHER = ["Tell me another story.", "Another one, please.", "Do you know another tale?", "One more, please."]

SYSTEMS = ["You are a helpful assistant.", "You tell old tales.", "You are a storyteller.", "Answer briefly."]

HELLO = ["Hello", "Hello!", "Hi", "Hi there!", "Good morning.", "Good evening.", "Hey", "Good day.", "How are you?",
         "Hello, how are you?"]
HELLO_ANSWER = ["Good day to you. Shall I tell you a tale?", "Good day, friend. What tale would you hear?",
                "Welcome! Sit down by the fire, and I will tell you a story.",
                "I am well, thank you. Would you like to hear a tale?"]
WHO = ["Who are you?", "What are you?", "What is your name?", "What can you do?", "Are you a robot?", "What do you know?",
       "Help"]
WHO_ANSWER = ["I am a very small model that has read old tales and nothing else. Ask me for a story about a fox, a king or "
              "a giant.",
              "I am a teller of tales, and a small one. Give me a first line and I will go on from it.",
              "I only know old tales. Ask me for a story, or give me a line to go on from."]
THANKS = ["Thank you.", "Thanks!", "Thank you, that was nice.", "That was a good story.", "Goodbye.", "Good night."]
THANKS_ANSWER = ["You are welcome. Come again when you want another tale.", "Farewell, and sleep well.",
                 "I am glad that it pleased you. Shall I tell you another?"]
FACTS = ["What is the capital of France?", "What is 2 + 2?", "Who won the match?", "What is the weather like today?",
         "Write a Python program.", "What year is it?", "Translate this into German.", "How do computers work?",
         "Who is the president?", "What is the meaning of life?", "How tall is the highest mountain?", "Solve x + 3 = 7.",
         "What is the best phone?", "Explain quantum physics.", "How do I cook rice?", "What is the news?"]
FACTS_ANSWER = ["That I do not know; I have only read old tales. Shall I tell you one?",
                "Of such things I know nothing. But ask me for a tale, and you shall have it.",
                "I know only old tales, and that is not in them. Would you like to hear one?"]


def lower_title(title):
    """'The Frog-King, or Iron Henry' -> 'the Frog-King, or Iron Henry'; chapter numbers and capitals removed."""
    t = re.sub(r"^(CHAPTER|Chapter|BOOK|Book|PART|Part)\s+[\dIVXLC]+[.:, -]*", "", title).strip() or title
    t = t.title() if t.isupper() else t
    for article in ("The ", "A ", "An "):
        if t.startswith(article):
            return article.lower() + t[len(article) :].rstrip(".")
    return t.rstrip(".")


def ask_for_title(rng, title):
    t = lower_title(title)
    return rng.choice(TITLE + TELL).format(t)


def topics(title, body):
    """What a tale is about: things named in its title, or often and early in its text; best first."""
    text = body.lower()
    found = []
    for thing in THINGS:
        word = thing.replace("~", " ")
        hits = len(re.findall(rf"\b{word}s?\b", text))
        early = re.search(rf"\b{word}s?\b", text[:400]) is not None
        named = re.search(rf"\b{word}s?\b", title.lower()) is not None
        if named or (early and hits >= 2):
            found.append((named * 10 + hits + 2 * early, word))
    return [w for _, w in sorted(found, reverse=True)[:3]]


def with_article(word):
    if word in ("sun", "moon", "wind", "sea", "rain", "devil"):
        return "the " + word
    return ("an " if word[0] in "aeiou" else "a ") + word


def paragraphs(body):
    return [p for p in body.split("\n\n") if p.strip()]


def span(paras, start, limit):
    """Whole paragraphs from `start`, at least one, up to `limit` characters."""
    out, size = [], 0
    for p in paras[start:]:
        if out and size + len(p) > limit:
            break
        out.append(p)
        size += len(p) + 2
    return out


def ask_story(rng, title, body):
    about = topics(title, body)
    if about and rng.random() < 0.7:
        what = with_article(rng.choice(about[:2]))
        if len(about) > 1 and rng.random() < 0.3:
            what = " and ".join(with_article(w) for w in rng.sample(about, 2))
        return rng.choice(TELL).format(what)
    return rng.choice(ANY) if rng.random() < 0.3 else ask_for_title(rng, title)


def story(rng, title, body):
    return ask_story(rng, title, body), body


def go_on(rng, title, body):
    """A line, or a few, from anywhere; the answer is what follows it, to the end of a paragraph."""
    paras = paragraphs(body)
    i = 0 if rng.random() < 0.4 else rng.randrange(len(paras))
    sentences = re.split(r"(?<=[.!?;])\s+", paras[i])
    if len(sentences) > 1:
        cut = rng.randint(1, min(3, len(sentences) - 1))
        line, rest = " ".join(sentences[:cut]), " ".join(sentences[cut:])
        answer = [rest] + span(paras, i + 1, rng.choice((1, 400, 900)))
    elif i + 1 < len(paras):
        line, answer = paras[i], span(paras, i + 1, rng.choice((200, 600, 1200)))
    else:
        return None
    return rng.choice(GO_ON).format(line), "\n\n".join(answer)


def beginning(rng, title, body):
    return rng.choice(BEGIN).format(lower_title(title)), "\n\n".join(span(paragraphs(body), 0, 900))


def ending(rng, title, body):
    paras = paragraphs(body)
    last = span(paras[::-1], 0, 700)[::-1]
    lead = span(paras, 0, 500)
    if len(lead) + len(last) > len(paras):
        return None
    if rng.random() < 0.5:
        return rng.choice(END).format(lower_title(title)), "\n\n".join(last)
    return rng.choice(END_OF).format("\n\n".join(lead)), "\n\n".join(last)


def small_talk(rng):
    asks, answers = rng.choice([(HELLO, HELLO_ANSWER), (WHO, WHO_ANSWER), (THANKS, THANKS_ANSWER), (FACTS, FACTS_ANSWER)])
    return rng.choice(asks), rng.choice(answers)


def in_two_turns(rng, title, body):
    """A tale's opening, then more of it or its end; None if it is too short for that."""
    paras = paragraphs(body)
    first = span(paras, 0, 700)
    more = span(paras, len(first), 900)
    last = span(paras[::-1], 0, 700)[::-1]
    if len(first) + len(last) > len(paras):
        return None
    ask, then = (rng.choice(MORE), more) if rng.random() < 0.5 else (rng.choice(HOW_END), last)
    return [(ask_story(rng, title, body), "\n\n".join(first)), (ask, "\n\n".join(then))]


def short(rng, titled, longest):
    while True:
        title, body = rng.choice(titled)
        if STORY_CHARS[0] <= len(body) <= longest:
            return title, body


def tale_turns(rng, titled, simple):
    """One or two turns about one tale, or a list with None in it. Whole tales come from the simple ones."""
    kind = rng.random()
    if kind < 0.55:
        return [story(rng, *short(rng, simple, STORY_CHARS[1]))]
    if kind < 0.65:
        return in_two_turns(rng, *rng.choice(simple)) or [None]
    if kind < 0.72:
        return [beginning(rng, *rng.choice(simple))]
    if kind < 0.80:
        return [ending(rng, *rng.choice(simple))]
    return [go_on(rng, *rng.choice(titled))]


def conversation(rng, titled, simple):
    """(system text or '', [(user, assistant), ...]); both lists hold (title, body), `simple` the plainer tales."""
    system = rng.choice(SYSTEMS) if rng.random() < 0.15 else ""
    if rng.random() < 0.06:
        turns = [small_talk(rng)]
        return system, turns + [story(rng, *short(rng, simple, 1500))] if rng.random() < 0.3 else turns
    turns = tale_turns(rng, titled, simple)
    while any(t is None or len(t[1]) > STORY_CHARS[1] for t in turns):
        turns = tale_turns(rng, titled, simple)
    if rng.random() < 0.08:
        turns.append((rng.choice(ANOTHER), short(rng, simple, 1500)[1]))
    return system, turns
