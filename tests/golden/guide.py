"""The words of the guide "SAX on Cloud TPU v5e", for tests of every part.

TEXT is what the guide tokenises, as it prints it; PROMPT is the same with its escapes undone.
INPUT_STR are the token ids, INPUT_IDS the same as numbers. BEAM_ROWS are the four answers, token
ids and score, and OUTPUT_TEXT the text of the first. TABLE is how saxutil prints them; the guide's
page has lost the blanks of its columns, here they are as the width of its borders says.
"""

TEXT = (
    "Below is an instruction that describes a task, paired with an input that provides "
    "further context. Write a response that appropriately completes the request.\\n\\n### "
    "Instruction\\:\\nSummarize the following news article\\:\\n\\n### Input\\:\\nMarch 10, "
    "2015 . We're truly international in scope on Tuesday. We're visiting Italy, Russia, "
    "the United Arab Emirates, and the Himalayan Mountains. Find out who's attempting to "
    "circumnavigate the globe in a plane powered partially by the sun, and explore the "
    "mysterious appearance of craters in northern Asia. You'll also get a view of Mount "
    "Everest that was previously reserved for climbers. On this page you will find today's "
    "show Transcript and a place for you to request to be on the CNN Student News Roll "
    "Call. TRANSCRIPT . Click here to access the transcript of today's CNN Student News "
    "program. Please note that there may be a delay between the time when the video is "
    "available and when the transcript is published. CNN Student News is created by a team "
    "of journalists who consider the Common Core State Standards, national standards in "
    "different subject areas, and state standards when producing the show. ROLL CALL . For "
    "a chance to be mentioned on the next CNN Student News, comment on the bottom of this "
    "page with your school name, mascot, city and state. We will be selecting schools from "
    "the comments of the previous show. You must be a teacher or a student age 13 or older "
    "to request a mention on the CNN Student News Roll Call! Thank you for using CNN "
    "Student News!\\n\\n### Response\\:"
)
PROMPT = TEXT.replace("\\n", "\n").replace("\\:", ":")
INPUT_STR = (
    "21106,318,281,12064,326,8477,257,4876,11,20312,351,281,5128,326,3769,2252,4732,13,"
    "19430,257,2882,326,20431,32543,262,2581,13,198,198,21017,46486,25,198,13065,3876,1096,"
    "262,1708,1705,2708,25,198,198,21017,23412,25,198,16192,838,11,1853,764,775,821,4988,"
    "3230,287,8354,319,3431,13,775,821,10013,8031,11,3284,11,262,1578,4498,24880,11,290,262,"
    "42438,22931,21124,13,9938,503,508,338,9361,284,2498,4182,615,10055,262,13342,287,257,"
    "6614,13232,12387,416,262,4252,11,290,7301,262,11428,5585,286,1067,8605,287,7840,7229,"
    "13,921,1183,635,651,257,1570,286,5628,41336,326,373,4271,10395,329,39311,13,1550,428,"
    "2443,345,481,1064,1909,338,905,42978,290,257,1295,329,345,284,2581,284,307,319,262,"
    "8100,13613,3000,8299,4889,13,48213,6173,46023,764,6914,994,284,1895,262,14687,286,1909,"
    "338,8100,13613,3000,1430,13,4222,3465,326,612,743,307,257,5711,1022,262,640,618,262,"
    "2008,318,1695,290,618,262,14687,318,3199,13,8100,13613,3000,318,2727,416,257,1074,286,"
    "9046,508,2074,262,8070,7231,1812,20130,11,2260,5423,287,1180,2426,3006,11,290,1181,"
    "5423,618,9194,262,905,13,15107,3069,42815,764,1114,257,2863,284,307,4750,319,262,1306,"
    "8100,13613,3000,11,2912,319,262,4220,286,428,2443,351,534,1524,1438,11,37358,11,1748,"
    "290,1181,13,775,481,307,17246,4266,422,262,3651,286,262,2180,905,13,921,1276,307,257,"
    "4701,393,257,3710,2479,1511,393,4697,284,2581,257,3068,319,262,8100,13613,3000,8299,"
    "4889,0,6952,345,329,1262,8100,13613,3000,0,198,198,21017,18261,25"
)
INPUT_IDS = [int(i) for i in INPUT_STR.split(",")]
_START = (
    "1212,2443,3407,262,905,42978,764,198,11041,262,42978,284,1037,2444,351,3555,35915,290,"
    "25818,764,198,2953,262,4220,286,262,2443,11,2912,329,257,2863,284,307,4750,319,8100,"
    "13613,3000,13,"
)
BEAM_ROWS = [
    (
        _START
        + "220,921,1276,307,257,4701,393,257,3710,2479,1511,393,4697,284,2581,257,3068,319,262,"
        "8100,13613,3000,8299,4889,13,50256",
        "-0.023136413",
    ),
    (
        _START
        + "220,921,1276,307,257,4701,393,257,3710,2479,1511,393,4697,284,2581,257,3068,319,262,"
        "8100,13613,3000,8299,4889,0,50256",
        "-0.91842502",
    ),
    (
        _START
        + "921,1276,307,257,4701,393,257,3710,2479,1511,393,4697,284,2581,257,3068,319,262,8100,"
        "13613,3000,8299,4889,13,50256",
        "-1.1726116",
    ),
    (
        _START
        + "220,921,1276,307,1511,393,4697,284,2581,257,3068,319,262,8100,13613,3000,8299,4889,13,"
        "50256",
        "-1.2472695",
    ),
]
OUTPUT_TEXT = (
    "This page includes the show Transcript.\nUse the Transcript to help students with "
    "reading comprehension and vocabulary.\nAt the bottom of the page, comment for a chance "
    "to be mentioned on CNN Student News. You must be a teacher or a student age 13 or "
    "older to request a mention on the CNN Student News Roll Call."
)
_BORDER = "+" + "-" * 304 + "+" + "-" * 14 + "+\n"
TABLE = (
    _BORDER
    + "|"
    + " " * 148
    + "GENERATE"
    + " " * 148
    + "|    SCORE     |\n"
    + _BORDER
    + "".join(f"| {ids:<302} | {score:>12} |\n" for ids, score in BEAM_ROWS)
    + _BORDER
)
