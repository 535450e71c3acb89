"""Word lists and templates that prompts.py combines. Data only: adding a line here adds prompts."""

from __future__ import annotations


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines())


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.replace("\n", " ").split(",") if word.strip())


TOPICS = _words("""
photosynthesis, the water cycle, black holes, volcanoes, earthquakes, climate change, solar energy, wind
power, nuclear fusion, electric cars, high-speed trains, bicycles, the history of aviation, space
exploration, the Moon landing, Mars, the Roman Empire, ancient Egypt, the Renaissance, the Industrial
Revolution, the French Revolution, the Silk Road, the printing press, the invention of the telephone, the
internet, artificial intelligence, machine learning, neural networks, quantum computing, cryptography,
databases, operating systems, open source software, cloud computing, video games, chess, football,
basketball, tennis, swimming, marathon running, yoga, meditation, healthy sleep, a balanced diet, vitamins,
the immune system, vaccines, antibiotics, the human heart, the brain, memory and learning, learning a new
language, public speaking, writing a novel, poetry, photography, painting, classical music, jazz, learning
the guitar, cooking pasta, baking bread, coffee, tea, chocolate, cheese, growing tomatoes, composting,
beekeeping, dogs, cats, whales, elephants, penguins, migratory birds, coral reefs, rainforests, deserts,
glaciers, rivers, oceans, personal budgeting, saving for retirement, the stock market, inflation, supply and
demand, starting a small business, remote work, time management, team meetings, job interviews, writing a
resume, negotiation, customer service, leadership, friendship, raising children, moving to a new city,
travelling alone, a trip to Japan, a weekend in Paris, camping, hiking, gardening, recycling, minimalism,
home repairs, choosing a laptop, phone batteries, online privacy, passwords, social media, newspapers,
libraries, museums, architecture, bridges, lighthouses, clocks, maps, democracy, human rights, the United
Nations, taxes, public transport, urban planning, fashion, the theatre, film making, comic books, myths,
fairy tales, dreams, happiness, kindness, courage, curiosity, honesty, gravity, electricity, magnetism,
light, sound, atoms, DNA, evolution, dinosaurs, bacteria, metals, plastics, water, salt, the periodic table,
probability, geometry, prime numbers, statistics, algebra, logic, philosophy, ethics, psychology, economics,
sociology, linguistics
""")

CHAT = _lines("""
What is {topic}?
Explain {topic} in simple terms.
Tell me something interesting about {topic}.
Give me three facts about {topic}.
Write a short story about {topic}.
Write a poem about {topic}.
What are the benefits of {topic}?
Why does {topic} matter?
I want to learn about {topic}. Where should I start?
Write a short article about {topic}.
List five important things to know about {topic}.
How would you explain {topic} to a ten-year-old?
Write an email to a friend about {topic}.
What are common misconceptions about {topic}?
Give me some advice about {topic}.
Compare {topic} and {other}.
How has {topic} changed over the last hundred years?
Write an introduction for an essay on {topic}.
What questions should I ask an expert on {topic}?
Describe {topic} in two sentences.
Suggest a title for a blog post about {topic}.
What is the connection between {topic} and {other}?
Write a dialogue between two people about {topic}.
Can you help me understand {topic}?
Pretend you are a teacher and give a short lesson on {topic}.
What are the pros and cons of {topic}?
""")

SYSTEMS = _lines("""
You are a helpful assistant.
You are a concise assistant. Answer in as few words as you can.
You are a friendly teacher.
You are an expert programmer.
You are a careful assistant who explains every step.
You are a professional translator.
You answer questions only from the text that is given to you.
""")

FOLLOW_UPS = _lines("""
Can you explain that in more detail?
Give me an example.
Why is that?
Make it shorter.
Can you rewrite that in a more formal tone?
What else should I know?
Summarize what you just said in one sentence.
Can you say that in simpler words?
Thank you! What should I do next?
Are you sure?
""")

PROGRAMS = _lines("""
reverses a string
checks if a number is prime
computes the factorial of a number
returns the nth Fibonacci number
sorts a list of integers
removes duplicates from a list
counts the words in a text
finds the largest number in a list
checks if a string is a palindrome
merges two sorted lists
computes the average of a list of numbers
converts Celsius to Fahrenheit
counts the vowels in a string
finds the second largest element of an array
computes the greatest common divisor of two numbers
searches a sorted array with binary search
reads a file and prints each line
flattens a nested list
validates an email address
generates a random password
computes the sum of the digits of a number
transposes a matrix
multiplies two matrices
counts how often each character occurs in a string
checks if two strings are anagrams
rotates a list by k positions
implements a stack with push and pop
implements a queue
inserts a node into a linked list
traverses a binary tree in order
computes the length of the longest common prefix
converts an integer to a Roman numeral
prints the numbers from 1 to 100, with Fizz and Buzz
computes the power of a number without using the built-in operator
parses a CSV line into fields
finds all even numbers in a list
capitalizes the first letter of each word
computes the distance between two points
returns the intersection of two lists
reads JSON from a file and returns one field
sends an HTTP GET request and prints the status
groups a list of dictionaries by a key
""")

LANGUAGES = _words("Python, Python, Python, Python, JavaScript, Java, C, C++, Go, Rust, TypeScript")

CODE = _lines("""
Write a {language} function that {program}.
Write a {language} program that {program}. Add comments.
How do I write {language} code that {program}?
Show me a {language} example that {program} and explain how it works.
Implement a function in {language} which {program}, and give one example of its use.
Please write clean {language} code that {program}. Include a test.
I need a {language} function that {program}. Only give me the code.
Write a {language} function that {program} and state its time complexity.
""")

NAMES = _words("""
Anna, Ben, Carla, David, Emma, Felix, Grace, Henry, Isabel, Jack, Kate, Leo, Maria, Noah, Olivia, Paul, Rosa, Sam,
Tina, Victor, Wendy, Yusuf, Amir, Chen, Priya, Lucas, Nadia, Omar, Sofia, Tom
""")

THINGS = _words("""
apples, books, pencils, cookies, marbles, stickers, oranges, tickets, eggs, flowers, coins, bottles, boxes, cards, toys
""")

MATHS = _lines("""
{name} has {a} {things}. {friend} gives {name} {b} more. How many {things} does {name} have now?
A shop sells {things} for ${b} each. How much do {a} {things} cost?
What is {a} plus {b}?
What is {a} times {b}?
What is {c} minus {b}?
Solve for x: {b}x + {a} = {c}.
{name} drives at {a} km per hour for {b} hours. How far does {name} travel? Explain step by step.
A rectangle is {a} cm long and {b} cm wide. What are its area and perimeter?
{name} had {c} {things} and gave {b} to {friend}. How many are left? Show your work.
What is {b} percent of {c}?
A box holds {b} {things}. How many boxes are needed for {c} {things}?
The average of {a}, {b} and x is {c}. What is x?
{name} reads {b} pages every day. How many days does it take to read {c} pages?
If {b} {things} cost ${a}, how much does one cost?
Calculate ({a} + {b}) * 2 and explain each step.
A triangle has a base of {a} cm and a height of {b} cm. What is its area?
{name} is {a} years old and {friend} is {b} years older. How old are they together?
What is the square of {b}? And the square root of 144?
""")

TONGUES = _words("French, French, Spanish, Spanish, German, Italian, Portuguese, Dutch")

SENTENCES = _lines("""
Where is the nearest train station?
I would like a cup of {drink}, please.
My name is {name} and I live in {city}.
The weather in {city} is very nice today.
How much does this book cost?
{name} and {friend} went to the market to buy {things}.
I have been learning this language for two years.
Could you please speak more slowly?
The meeting starts at nine o'clock tomorrow morning.
My brother works as a doctor in {city}.
We are going to visit our grandparents next weekend.
The museum in {city} is closed on Mondays.
Thank you very much for your help, {name}.
I forgot my keys at the office.
The children are playing in the garden.
She has lived in {city} since she was a child.
Please send me the report before Friday.
There are {a} {things} on the table.
He drinks {drink} every morning before work.
The old bridge was built three hundred years ago.
{name} wants to study medicine at the university of {city}.
It is raining, so we will stay at home.
""")

TRANSLATE = _lines("""
Translate to {tongue}: {sentence}
Translate the following sentence into {tongue}: "{sentence}"
How do you say "{sentence}" in {tongue}?
What is the {tongue} translation of: {sentence}
Please translate this into {tongue}: {sentence}
Give me the {tongue} version of this sentence: {sentence}
""")

CITIES = _words("""
Berlin, Lisbon, Oslo, Toronto, Nairobi, Osaka, Lima, Dublin, Prague, Athens, Helsinki, Chicago, Seattle, Mumbai,
Cairo, Vienna, Geneva, Boston, Sydney, Manila
""")

DRINKS = _words("coffee, tea, water, orange juice, milk, hot chocolate")

FIRMS = _words("""
Brightwater Systems, Northwind Foods, Alder & Finch, Solaris Motors, Greenleaf Energy, Harbor Robotics, Bluestone Bank,
Maple Street Books, Orion Logistics, Cedar Health, Silver Oak Furniture, Polar Airlines, Redwood Media, Quartz Pharma,
Lantern Games, Copper Canyon Mining, Skyline Builders, Riverbend Textiles
""")

TRADES = _words("""
batteries, software, frozen meals, wooden chairs, delivery drones, solar panels, running shoes, medical scanners,
school books, board games, water filters, bicycles, coffee machines, garden tools
""")

FACTS = _lines("""
{firm} was founded in {year} in {city} by {name} and {friend}.
The company makes {trade} and employs {c} people.
In {later}, it opened a second office in {city2}.
Its revenue grew by {b} percent last year, mostly because of higher demand for {trade}.
{name}, who leads the company, said that the new plant would create {a} jobs.
The board will meet in {city2} on the {d}th of next month to decide about the budget.
A fire in the warehouse destroyed {a} tons of {trade2} in {later}, but nobody was hurt.
{friend} left the company in {later} to start a firm that sells {trade2}.
Customers complained that delivery took more than {b} days.
The company plans to stop using plastic packaging by {future}.
Its shares fell by {d} percent after the announcement, and recovered two weeks later.
Analysts expect that the price of {trade} will rise next year.
The city of {city} supports the project with {a} million dollars.
A new version of its best-known product will be presented in {city2} in {future}.
The workers' union asked for a raise of {d} percent and a shorter working week.
The company also runs a training programme for {b} young engineers every year.
""")

SUMMARIES = _lines("""
Summarize the following text:
Give a one-sentence summary of this text.
Write a short summary of the following passage.
Summarize this article in three bullet points.
What is the main idea of the following text?
TL;DR of the text below, please.
Summarize the news item below for a busy reader.
""")

QUESTIONS = _lines("""
Who founded the company?
In which year was the company founded?
What does the company make?
Where is the second office?
How many people work there?
What happened to the shares?
What is the company planning?
Which cities are mentioned?
Who is {name}?
What does the text say about {firm}?
Why did revenue grow?
What was destroyed, and when?
""")

READINGS = _lines("""
Answer the question using only the passage.|Passage: {passage}|Question: {question}
Context: {passage}|Question: {question}|Answer:
{passage}|Based on the text above, answer this question: {question}
Read the passage and answer the question. If the answer is not in it, say so.|{passage}|Question: {question}
Use the following documents to answer.|[1] {passage}|[2] {passage2}|Question: {question}
""")

RECORDS = _lines("""
{name} is {b} years old, lives in {city} and drinks {drink} every morning.
{firm} from {city} ordered {a} {things} for ${c}, to be delivered on the {d}th.
{name} and {friend} bought {b} {things} at the market in {city} and paid {c} in cash.
On the {d}th {name} flew from {city} to {city2} for ${c}; {friend} stays until the {b}th.
Ticket {c}: {name} from {firm} cannot log in since {year}. Priority high, answered by {friend}.
{firm} sells {trade} for ${a} and {trade2} for ${b}; {c} of each are in stock in {city}.
""")

AS_JSON = _lines("""
Extract the facts from this text as JSON: {record}
Return only a JSON object with the fields of this sentence. {record}
Turn this into JSON with sensible keys, nothing else: {record}
Write a JSON array with three records like this one: {record}
Convert to JSON, numbers as numbers: {record}
Give me a JSON schema that fits data such as: {record}
Make an object with the keys "who", "what", "where" and "amount" from: {record}
Write this as YAML: {record}
""")

# Name, parameters, a request, the arguments of its call, and what the function returns.
TOOLS = _lines("""
get_weather|city: string, unit: string|What is the weather like in {city}?|\
{{"city": "{city}", "unit": "celsius"}}|{{"city": "{city}", "degrees": {b}, "sky": "cloudy"}}
get_forecast|city: string, day: string|Will it rain in {city} tomorrow, {name} asks.|\
{{"city": "{city}", "day": "tomorrow"}}|{{"city": "{city}", "rain_mm": {d}}}
search_orders|customer: string, since: date|Show me the orders of {name} since {year}.|\
{{"customer": "{name}", "since": "{year}-01-01"}}|[{{"id": {c}, "item": "{things}", "total": {a}}}]
cancel_order|order_id: integer|Please cancel order {c}.|\
{{"order_id": {c}}}|{{"order": {c}, "status": "cancelled"}}
book_table|restaurant: string, people: integer, time: string|A table for {d} at {name}'s in {city}, tonight at eight.|\
{{"restaurant": "{name}'s", "people": {d}, "time": "20:00"}}|{{"status": "booked", "number": {c}}}
send_email|to: string, subject: string, body: string|Tell {name} that the {things} have arrived.|\
{{"to": "{name}", "subject": "Your {things}", "body": "The {things} have arrived."}}|{{"sent": true}}
convert_currency|amount: number, from: string, to: string|How much are {c} dollars in euros?|\
{{"amount": {c}, "from": "USD", "to": "EUR"}}|{{"amount": {a}, "currency": "EUR"}}
read_file|path: string|What is in notes/{name}.txt?|\
{{"path": "notes/{name}.txt"}}|{name} owes {friend} {a} {things}.
list_files|folder: string, pattern: string|Which reports of {year} are there?|\
{{"folder": "reports/{year}", "pattern": "*"}}|["{year}/{city}.csv", "{year}/{city2}.csv"]
create_event|title: string, day: integer, minutes: integer|Plan a meeting with {friend} on the {d}th, {a} minutes.|\
{{"title": "Meeting with {friend}", "day": {d}, "minutes": {a}}}|{{"id": {c}, "conflicts": []}}
search_flights|origin: string, destination: string, day: integer|A flight from {city} to {city2} on the {d}th.|\
{{"origin": "{city}", "destination": "{city2}", "day": {d}}}|[{{"flight": "ED{c}", "price": {a}}}]
run_sql|query: string|How many customers do we have in {city}?|\
{{"query": "SELECT count(*) FROM customers WHERE city = '{city}'"}}|[{{"count": {c}}}]
""")

TOOL_SYSTEMS = _lines("""
These functions are available:|{functions}|To use one, write <tool_call>, its name and arguments as JSON, </tool_call>.
You have access to these tools:|{functions}|Call with <tool_call>{{"name": "...", "arguments": {{}}}}</tool_call>.
You are an assistant with tools. A call is one line with the tags <tool_call> and </tool_call>.|{functions}
# Tools|{functions}|For a call return JSON with "name" and "arguments" within <tool_call></tool_call> tags.
""")
