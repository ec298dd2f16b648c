"""The forms of what identifies, as regular expressions: dates, numbers, addresses, places, and what stands beside names."""

from __future__ import annotations

import re

_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?"
    r"|januar|jänner|februar|märz|mai|juni|juli|oktober|dezember|janvier|février|mars|avril|juin|juillet|août"
    r"|septembre|octobre|novembre"
    r"|décembre|enero|febrero|marzo|abril|mayo|junio|julio|agosto|septiembre|octubre|noviembre|diciembre"
    r"|gennaio|febbraio|aprile|maggio"
    r"|giugno|luglio|settembre|ottobre|dicembre)\b\.?"
)
_DAY = r"(?:3[01]|[12]\d|0?[1-9])(?:st|nd|rd|th|\.)?"
_YEAR = r"(?:(?:18|19|20|21)\d\d|['’]\d\d)"
_TITLE = (
    r"(?:Dr|DR|Drs|Doctor|Mr|Mrs|MRS|Ms|MS|Miss|Mx|Prof|Professor|Sir|Dame|Rev|Reverend|Fr|Pastor|Rabbi|Imam"
    r"|Judge|Officer|Sgt|Sergeant|Capt|Col|Colonel|Cmdr|Commander|Maj|Major|Gen|General|Cpl|Corporal|Pvt|Adm"
    r"|Captain|Lt|Nurse|Matron|Herr|Herrn|Frau|Monsieur|Madame|Mme|Señora?|Sra?|Dra|Signora?|Coach|Chaplain"
    r"|Deputy|Detective|Madam)"
)
_PARTICLE = (
    r"(?:van der|van den|van|von|de la|de los|del|de|della|di|da|dos|du|le|la|bin|ibn|al|el|ten|ter|zu|O['’]"
    r"|Mac|Mc|St\.?)"
)
_BIG = r"(?:[A-ZÀ-ÖØ-Þ](?:[\w'’]*[^\W\d_])?(?:-[A-ZÀ-ÖØ-Þ][\w'’]+)*\d{0,4})"
_INITIAL = r"(?:[A-Z]\.(?:[ ]?[A-Z]\.)*)"
_NAME = (
    rf"(?:(?:{_INITIAL}|{_BIG})(?:[ ]+(?:{_PARTICLE}[ ]*)?(?:{_INITIAL}|{_BIG})|[ ]+{_PARTICLE}[ ]+{_BIG}"
    rf"|[ ]+[A-Z]\b)*)"
)
_FULL = rf"(?:{_BIG}(?:,[ ]*{_NAME})?(?:[ ]+(?:{_PARTICLE}[ ]*)?(?:{_INITIAL}|{_BIG}|[A-Z]\b))*|{_NAME})"
_DEGREE = (
    r"(?:M\.?D\.?|R\.?N\.?|D\.?O\.?|N\.?P\.?|P\.?A\.?(?:-C)?|Ph\.?D\.?|FRCP|FRCS|FACS|FACC|DDS|DPM|LPN|LVN"
    r"|PharmD|MBBS|MBChB|LCSW|LICSW|CRNA|ARNP|APRN|MSW|CNM|OT|PT|RT|EMT)"
)
_CUES = (
    r"(?:patient(?:'s)? name|patient|pt|name|attending|physician|provider|surgeon|first assistant|assistant"
    r"|an[ae]?esth(?:esiologist|etist)|radiologist"
    r"|re|regarding|pharmacy|employer|school|facility|dme|scribe|escort|ordering|funeral home|team"
    r"|recipient|donor|mom|dad"
    r"|pathologist|cardiologist|referring|referred by|referred to|dictated by|dictated|signed by|signed"
    r"|electronically signed by|electronically signed"
    r"|e-signed|transcribed by|typed by|authored by|author|reviewed by|verified by|reported by|read by"
    r"|interpreted by|performed by|ordered by|seen by"
    r"|accompanied by|cc|copy to|dear|interpreter|next of kin|nok|emergency contact|contact|contact person"
    r"|mother|father|spouse|guardian|carer|caregiver|pcp|gp"
    r"|primary care|consultant|resident|intern|fellow|case manager|social worker|therapist|counsell?or|witness"
    r"|informant|proxy|poa|sincerely|regards"
    r"|spoke (?:with|to)|discussed with|thank you|thanks|called|phoned|paged|goes by|known as|née|nee|aka"
    r"|a\.k\.a\.|maiden name|von|untersucher|arzt|name des patienten)"
)
_RELATION = (
    r"(?:wife|husband|spouse|partner|boyfriend|girlfriend|fianc[ée]e?|mother|father|mom|mum|dad|parent|son"
    r"|daughter|brother|sister|twin|aunt|uncle|niece"
    r"|nephew|cousin|grandson|granddaughter|grandmother|grandfather|grandma|grandpa|neighbou?r|friend|roommate"
    r"|landlord|guardian|caregiver|carer|nurse|aide"
    r"|midwife|doula|colleague|coworker|boss|employer|teacher|coach|pastor|priest|baby|child|infant|dog|cat"
    r"|stepson|stepdaughter|stepmother|stepfather|widow|widower"
    r"|surgeon|cardiologist|oncologist|physician|doctor|dentist|therapist|psychiatrist|attorney|lawyer"
    r"|social worker|case manager|technologist|sonographer|pharmacist)"
)
_STREET = (
    r"(?:Street|Avenue|Road|Lane|Drive|Boulevard|Court|Terrace|Parkway|Circle|Square|Highway|Crescent|Gardens|Place"
    r"|Way|Row|Walk|Mews|Trail|Alley|Turnpike|Loop|Close|Hill|Passage|Point|Ridge|Run|Bend|Crossing)"
)
_FLAT = r"(?:,? *(?:#|[Aa]pt|[Aa]partment|[Uu]nit|[Ss]uite|[Ss]te|[Ff]loor|[Ff]lat|[Rr]oom)\.? *[\w-]+)?"
_STREET_SHORT = r"(?:St|Ave|Av|Rd|Ln|Dr|Blvd|Ct|Ter|Pkwy|Cir|Sq|Hwy|Cres|Pl)\b\.?"
_INSTITUTION = (
    r"(?:Hospitals?|Clinics?|Medical (?:Center|Centre|Group|Associates|Plaza|School|Campus)|Health (?:Center"
    r"|Centre|System|Care|Department|Partners)|Cancer Cent(?:er|re)"
    r"|Heart Cent(?:er|re)|Infirmary|University|Universitätsklinikum|Klinikum|Krankenhaus|Institute"
    r"|Nursing Home|Care Home|Hospice|Healthcare|Rehabilitation(?: Cent(?:er|re))?"
    r"|Rehab|Pharmacy|School|High School|Elementary|Academy|College|Church|Parish|Mosque|Synagogue|Temple"
    r"|Prison|Jail|Penitentiary|Inc|Ltd|LLC|Corp(?:oration)?|Company"
    r"|Bank|Airport|(?:Fire|Police|Sheriff['’]s?|Health) Department|Sons|Brothers|Associates|Manor"
    r"|Lodge|Village|Estates?|Apartments|Towers?|Surgery Cent(?:er|re)|Sanatorium|Polyclinic"
    r"|Practice|Trust|Foundation|Laboratories|Factory|Mill|Plant"
    r"|County|Township|Borough|District|Province|Prefecture|Island|Beach|Heights|Falls|Springs|Creek|Lake"
    r"|Valley|Harbor|Harbour|Assisted Living|Senior Living|Surgical Associates|Radiology Associates|Imaging)"
)
_STATES = (
    r"(?:A[LKZR]|C[AOT]|D[EC]|FL|GA|HI|I[DLNA]|K[SY]|LA|M[EDAINSOT]|N[EVHJMYCD]|O[HKR]|PA|RI|S[CD]|T[NX]|UT"
    r"|V[TA]|W[AVIY])"
)
RULES: tuple[tuple[str, str, int], ...] = (
    ("EMAIL", r"[\w.+%-]+ ?@ ?[\w-]+(?:\.[\w-]+)+|[\w.+-]+\s*(?:\(at\)|\[at\]| at )\s*[\w-]+\s*(?:\(dot\)|\[dot\]"
     r"| dot )\s*\w+", re.I),
    ("URL", r"\b(?:https?://|ftp://|www\.)[^\s<>\"')\]]+|\b[\w-]+(?:\.[\w-]+)*\.(?:com|org|net|edu|gov|nhs\.uk|co\.uk"
     r"|de|fr)\b(?:/\S*)?|(?<![\w.])@[A-Za-z_][\w.]{2,}", re.I),
    ("ID", r"\b\d+(?:\.\d+){4,}\b", 0),
    ("IP", r"\b(?:\d{1,3}\.){3}\d{1,3}\b|\b(?:[0-9A-F]{2}[:-]){5}[0-9A-F]{2}\b"
     r"|\b(?:[0-9a-f]{1,4}:){4,7}[0-9a-f]{1,4}\b", re.I),
    # An IBAN (ISO 13616) in one or in fours: a country, check digits, a bank, then groups with digits.
    ("ID", r"\b[A-Z]{2}\d\d ?[A-Z0-9]{4}(?: ?(?=[A-Z]{0,3}\d)[A-Z0-9]{4})(?: ?[A-Z0-9]{4}){0,5}(?: ?(?=[A-Z]?\d)[A-Z0-9]{1,3})?\b", 0),
    ("ID", r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", re.I),
    ("DATE", rf"\b{_DAY}[ -]*(?:of |de |di )?{_MONTH}(?:[ ,./-]*(?:of |de |del )?{_YEAR})?(?!\w)"
     rf"|\b{_MONTH}[ -]*(?:the )?{_DAY}(?!\d|[./]\d| ?(?:mg|ml|mm|cm|%))(?:[ ,-]+{_YEAR}\b|,)?", re.I),
    ("DATE", rf"\b{_MONTH}[ ,./-]*(?:of |de |del )?{_YEAR}\b", re.I),
    ("DATE", rf"\b{_DAY}(?:[ ]*(?:-|–|to|through|and|/)[ ]*{_DAY})?[ ]+(?:of )?{_MONTH}", re.I),
    ("DATE", r"\b(?:in|of|since|last|next|this|early|late|mid|until|till|during|by|before|after|around|from|through|to"
     r"|and|every|each|im|seit|en|desde)[ -](?:early |late |mid-?|the (?:end|middle|beginning|start) of )?"
             r"(?:January|February|March|April|May|June|July|August|September|October|November|December|Jan|Feb|Mar|Apr"
     r"|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|Januar|Februar|März|Mai|Juni|Juli|Oktober|Dezember)\b", 0),
    ("DATE", r"\b(?:January|February|April|June|July|August|September|October|November|December)\b", 0),
    ("DATE", r"\b(?:19|20)\d\d[-/.](?:0?[1-9]|1[0-2])[-/.](?:3[01]|[12]\d"
     r"|0?[1-9])(?:[T ]+\d\d:?\d\d(?::?\d\d)?(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)?)?(?!\d)", 0),
    ("DATE", r"(?<![\d./-])(?:3[01]|[12]\d|0?[1-9])\s?[-/.]\s?(?:3[01]|[12]\d|0?[1-9])\s?[-/.]\s?(?:(?:18|19|20|21)\d\d"
     r"|\d\d)(?![\d/])(?:,?[ ]+(?:at )?\d{1,2}:\d\d(?::\d\d)?)?", 0),
    ("DATE", r"\b(?:on|since|by|until|till|before|after|from|of) the \d{1,2}(?:st|nd|rd"
     r"|th)\b(?! (?:\w+ )?(?:rib|percentile|week|day|toe|finger"
     r"|digit|metatarsal|metacarpal|nerve|vertebra|grade|hospital|floor|time|cranial|intercostal))", re.I),
    ("DATE", r"(?<![\d./-])(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:\d{4}|\d{6})?(?!\d)", 0),
    ("DATE", r"(?<![\d./-])(?:0?[1-9]|1[0-2])[-/](?:19|20)\d\d(?!\d|/)", 0),
    ("DATE", r"\b(?:on|since|from|until|till|by|dated|of|date|through|before|after|for|seen|visit|admitted|discharged"
     r"|dos|dob|d/c|and)[: ]+(?:\w+day,? )?(?:1[0-2]|0?[1-9])/(?:3[01]|[12]\d|0?[1-9])\b(?![/\d]| ?(?:strength"
     r"|murmur|pain|in|on|sys|for|to|mm|ejection|motor))", re.I),
    ("DATE", r"(?<![\d/.])(?:1[0-2]|0?[1-9])/(?:3[01]|2\d|1[1-9])(?![\d/%])", 0),
    ("DATE", r"\b(?:(?:mon|tues|wednes|thurs|fri|satur|sun)day|mon|tues?|wed|thurs?|fri|sat"
     r"|sun),? (?:the )?(?:\d{1,2}(?:st|nd|rd|th)\b|\d{1,2}/\d{1,2}\b)", re.I),
    ("DATE", r"\b(?:Christmas(?: Eve| Day)?|Thanksgiving(?: Day)?|New Year['’]?s(?: Eve| Day)?|Easter(?: Sunday"
     r"| Monday)?|Halloween|Labor Day|Memorial Day|Valentine['’]?s Day|Fourth of July|Independence Day"
     r"|Mother['’]?s Day|Father['’]?s Day|Veterans Day|Ramadan|Hanukkah|Diwali)\b", 0),
    ("AGE>89", r"\b(?:9\d|1[0-2]\d)(?=[ -]*(?:years?|yrs?|yo\b|y/o|y\.o\.?|y\b|jahre|jährige|ans\b|años))[ -]*(?:years?"
     r"|yrs?|yo|y/o|y\.o\.?|y|jahre|jährige[rn]?|ans|años)(?:[ -]*(?:olds?|of age))?|(?<=age )(?:9\d|1[0-2]\d)\b"
     r"|(?<=aged )(?:9\d|1[0-2]\d)\b|(?<=age: )(?:9\d|1[0-2]\d)\b|(?<=age of )(?:9\d|1[0-2]\d)\b"
     r"|(?<=turns )(?:9\d|1[0-2]\d)\b|(?<=turned )(?:9\d|1[0-2]\d)\b|(?<=turning )(?:9\d|1[0-2]\d)\b|\b(?:9\d"
     r"|1[0-2]\d)(?=[MF]\b)|(?<=\d{0} )(?:9\d|1[0-2]\d)(?=th birthday)", re.I),
    ("AGE>89", r"\b(?:ninety(?:[- ](?:one|two|three|four|five|six|seven|eight|nine))?|(?:a "
     r"|one )?hundred(?:[- ](?:and[- ])?(?:one|two|three|four|five|six|seven|eight|nine"
     r"|ten))?)[- ]years?(?:[- ]old)?|\b(?:nineties|centenarian|nonagenarian)\b|\bninet(?:y|ieth)(?:[- ](?:first"
     r"|second|third|fourth|fifth|sixth|seventh|eighth|ninth))? birthday", re.I),
    ("ID", r"\b\d{3}[- ]\d{2}[- ]\d{4}\b|\b[A-CEGHJ-PR-TW-Z]{2} ?\d{2} ?\d{2} ?\d{2} ?[A-D]\b", 0),
    ("PHONE", r"(?<![\d.])(?:\+|00)\d{1,3}[ .-]?(?:\(0\)[ ]?)?(?:\(?\d{1,5}\)?[ ./-]?){1,5}\d{2,}(?!\d)"
     r"|(?<![\d.-])\(?\d{3}\)?[ .-]{0,2}\d{3}[ .-]\d{4}(?!\d)(?:\s*(?:x|ext\.?|extension)\s*\d+)?"
     r"|\(0\d{1,4}\) ?\d{3,4}[ -]?\d{3,4}|(?<![\d.-])\d{3}[-.]\d{4}(?![\d-])"
     r"|(?<!\d)0\d{1,4}[ /-]\d{3,4}[ -]?\d{3,8}(?!\d)"
     r"|(?<!\d)0\d(?:[ .]\d\d){4}(?!\d)|(?<![\d.])\d{2,4}[ ]\d{3,4}[ ]\d{4}(?![\d.])", 0),
    ("PHONE", r"\b(?:ext\.?|extension|x|pager|beeper|bleep|tel\.?|telephone|phone|cell|mobile|fax"
     r"|ph)\s*(?:number|no\.?|#"
     r"|is|at)?\s*[:#]?\s*\+?\d[\d ()./-]{2,}\d", re.I),
    ("ID", r"(?:\b(?:number|no|nr|num)\b\.?|#)\s*(?:is|was"
     r"|:)?\s*(?:[A-Z]{1,5}[ -]?)?\d[\dA-Z]*(?:[ -][\dA-Z]*\d[\dA-Z]*|-[A-Z]{1,4}\b)*(?<=\w{3})\b", re.I),
    ("ID", r"\b(?=(?:[A-Z#/-]*\d){4})(?=[A-Z0-9#/-]*[A-Z])[A-Z0-9]{2,}(?:[-#/][A-Z0-9]{2,})+\b"
     r"|\b\d\d-\d\d-\d\d\b|\b(?:bed|bay|ICU|ward)[ -]+(?:ICU-?)?\d+[A-Z]?\b", 0),
    ("ID", r"\b(?:user ?name|user ?id|login|handle|screen name|password|nickname on \w+)\s*(?:is"
     r"|:)?\s*(?=\S*[\d_@])\S+", re.I),
    ("ID", r"\b(?:MRN|MR|health card|card|wristband|job|inmate|medical record|hospital|chart|acct|account"
     r"|accession|acc|case|specimen|policy|member"
     r"|insurance|medicare|medicaid|licen[cs]e|plate|SSN|social security|NHS|passport|serial|S/N|SN|UHID|patient"
     r"|pt|episode|visit|encounter|order|requisition|study|protocol|record|file|registration|badge|employee"
     r"|device|implant|lot|subject|participant|prisoner|authorization|auth|lab|sample|unit|DEA|NPI|VIN"
     r"|claim|group|ID|identification|identifier|fallnummer|aktenzeichen"
     r"|hospital no|ref)(?:\s*(?:ID|number|no\b\.?|num\b\.?|nr\b\.?|nummer|code|#))*\s*(?:is|was|:|#|="
     r""
     r"|-)?\s*[:#]?\s*(?=[A-Z0-9/-]{3})(?=[A-Z0-9/-]*\d)(?:[A-Z]{0,4}[- /]?)?[A-Z0-9]*\d[A-Z0-9]*(?:[-/][A-Z0-9]+)*"
     r"(?: \d{3,5})*\b(?!\s*(?:mg"
     r"|ml|mm|cm|years|yrs|days|weeks|hours|y/o|yo|%|patients|of))", re.I),
    ("ID", r"(?<![\w.,])\d{6,}(?![\w.]*\d|,\d| ?(?:/|cells|copies|IU|units?\b|mL|mcL|µL|cmm|per\b|mm))", re.I),
    ("ID", r"\b[A-Z]{1,5}[- ]?\d{4,}[A-Z]?\b|\b\d{2,}-\d{3,}-\d{1,}\b|\b\d{5,}-\d+\b|\b\d{4,}[A-Z]{1,3}\b"
     r"|\b[A-Z]{1,3}\d{2,3}[-/]\d{2,}\b|\b[A-Z]{1,4}-\d{2,}-\d{2,}\b|\b[A-Z0-9]{2,}[-/]\d{4,}[A-Z0-9/-]*\b"
     r"|\b(?=[A-Z]*\d)(?=\d*[A-Z])[A-Z0-9]{7,}\b|\b(?=(?:[A-Z]*\d){3})(?=\d*[A-Z])[A-Z0-9]{6}\b|#\s?\d{3,}"
     r"|\b\d{3,}(?:-[A-Z0-9]{2,}){2,}\b|\b[A-Z]?\d{2,3}-\d{4}\b", 0),
    ("ADDRESS", rf"\b\d{{1,5}}[A-Z]?,? +(?:[\w.'’-]+[ ]+){{1,3}}?(?:street|avenue|road|lane|boulevard|highway"
     rf"|parkway)\b{_FLAT}", re.I),
    ("ADDRESS", rf"\b\d{{1,5}}[A-Z]?,? +(?:[NSEW]\.? +)?(?:[A-Z0-9][\w.'’-]*[ ]+){{1,4}}?(?:{_STREET}"
     rf"|{_STREET_SHORT})(?!\w){_FLAT}", 0),
    ("ADDRESS", r"\b(?:calle|avenida|rue|via|plaza|paseo|largo|rua) (?:\w+ ){0,3}[\w'’]+,? \d+[a-z]?\b", re.I),
    ("ADDRESS", r"\b(?:Route|Rte\.?|Highway|Hwy\.?|Interstate|County Road|Autobahn|Exit) [A-Z]?-?\d+\b", 0),
    ("ADDRESS", r"\b(?:P\.? ?O\.? ?)?Box +\d+\b|\b(?:apt|apartment|suite|flat|room|rm|bed|ward"
     r"|unit)\.? *#? *\d+[A-Z]?(?:-\d+)?\b", re.I),
    ("ADDRESS", r"\b[A-ZÄÖÜ][\wäöüß-]*(?:stra(?:ß|ss)e|str\.|weg|platz|gasse|allee|ring|damm|ufer|gracht|straat"
     r"|laan)\s*\d+[a-z]?\b|\b\d+,? (?:bis )?(?:rue|avenue|boulevard|via|calle|plaza|paseo|chemin"
     r"|impasse) [\w'’ -]{3,30}", 0),
    ("ADDRESS", rf"\b{_STATES}[ ,]+\d{{5}}(?:-\d{{4}})?\b|\b\d{{5}}-\d{{4}}\b|\b[A-Z]{{1,2}}\d[A-Z\d]? \d[A-Z]{{2}}\b"
     rf"|\b(?:zip|zip code|postcode|postal code|plz)[: ]*\w{{3,8}}(?: \d[A-Z]{{2}})?\b"
     rf"|\b[A-Z]\d[A-Z] ?\d[A-Z]\d\b", 0),
    ("PLACE", rf"\b(?:(?:{_BIG}|St\.?|of|the|and|&|for|de"
     rf"|von)[ ]+){{0,5}}{_BIG}(?:['’]s)?[ ]+(?:{_INSTITUTION})\b(?:[ ]+(?:of|for|at"
     rf"|in)[ ]+(?:the[ ]+)?{_BIG}(?:[ ]+{_BIG})*)?", 0),
    ("PLACE", rf"\b(?:University|Hospital|Institute|College|City|County|Bank|Church|School|State|Town|Village"
     rf"|Commonwealth"
     rf"|Municipality|Universität|Klinikum|Kreiskrankenhaus) (?:of|for|at|in|de"
     rf"|di) (?:the )?{_BIG}(?:[ ]+{_BIG})*|\bSt\.? {_BIG}(?:['’]s)?|\bSaint {_BIG}(?:['’]s)?|\bMount {_BIG}", 0),
    ("PLACE", rf"\b[A-Z][a-z][\w'’-]+(?:[ ]{_BIG})?, ?(?:{_STATES}|Alabama|Alaska|Arizona|Arkansas|California|Colorado"
     rf"|Connecticut|Delaware|Florida|Georgia|Hawaii|Idaho|Illinois|Indiana|Iowa|Kansas|Kentucky|Louisiana|Maine"
     rf"|Maryland|Massachusetts|Michigan|Minnesota|Mississippi|Missouri|Montana|Nebraska|Nevada|New Hampshire"
     rf"|New Jersey|New Mexico|New York|North Carolina|North Dakota|Ohio|Oklahoma|Oregon|Pennsylvania"
     rf"|Rhode Island|South Carolina|South Dakota|Tennessee|Texas|Utah|Vermont|Virginia|Washington|West Virginia"
     rf"|Wisconsin|Wyoming)\b", 0),
)  # fmt: skip
NAMING: tuple[tuple[str, int], ...] = (
    (rf"\b{_TITLE}\.?[ ]+(?P<it>(?:{_PARTICLE}[ ]*)?{_NAME}(?:(?:,| and| und| or"
     rf"| &) (?:{_TITLE}\.?[ ]+)?(?={_BIG}){_NAME})*)", 0),
    (r"\b(?:(?:[Dd]r|[Mm]rs?|[Mm]s|[Pp]rof)\.|dr|mrs?|ms|MR\.|DR\.)[ ]+(?P<it>[A-Za-zà-ÿ][\w'’-]+)", 0),
    (rf"(?P<it>\b{_FULL}),?[ ]+{_DEGREE}(?![\w])", 0),
    (rf"\b(?i:{_CUES})[ ]*[:;,][ ]*(?i:{_TITLE}\.?[ ]+)?(?P<it>{_FULL})", 0),
    (rf"\b(?i:{_CUES})[ ]+(?:{_TITLE}\.?[ ]+)?(?P<it>{_NAME})", 0),
    (rf"(?<![a-z])(?i:{_RELATION})(?:['’]s name is|s are named|,? (?:is )?(?:named|called)|,|,? whose name is"
     rf"| is)?[ ]+(?P<it>{_NAME}(?:(?:,| and|, and) {_NAME})*)", 0),
    (rf"\b(?i:named|called|name is|named after|nickname(?:d)?|goes by|addressed as"
     rf"|prefers to be called)[ ]+[\"“'‘]?(?P<it>{_NAME})", 0),
    (rf"(?m)^[ \t]*(?:--?|/s/)[ ]*(?P<it>{_NAME})[ \t]*$", 0),
    (r"\b(?P<it>[A-Z]{2,3}[:/](?!ml|dl|kg|hr|min|day|mo|mg|wk|cm|mm|sec|ul|mol)[a-z]{2,3})\b", 0),
    (rf"\b(?P<it>(?:[A-Z]\.[ ]?){{1,3}}{_BIG})", 0),
    (rf"\b(?P<it>(?:{_BIG})[ ]+[A-Z]\.[ ]+{_BIG})", 0),
    (r"\b(?:by|with|per|from|to|of|and|for|resident|attending)[ ]+(?P<it>(?:[A-Z]\.){2,3})(?![\w])", 0),
    (r"(?<![\w.])(?P<it>(?:[A-Z]\.){2,3})(?=[,;:]? (?:is|was|has|had|presents?|presented|reports?|denies|a \d"
     r"|\())", 0),
)  # fmt: skip
EPONYM = re.compile(
    r"(?:['’]s?)?[ -](?:sign|signs|disease|syndrome|test|testing|palsy|lymphoma|criteria|score|scale"
     r"|classification|phenomen\w+|procedure|maneuver|manoeuvre|fracture"
    r"|contracture|catheter|monitor|point|node|triad|law|stain|tube|type|esophagus|thyroiditis|ulcer|tetralogy"
     r"|position|method|formula|grade|cell|cells|body|bodies|tumou?r"
    r"|reflex|murmur|respirations?|cyst|canal|gland|duct|ring|lines?|response|staging|stage|index|operation"
     r"|repair|incision|forceps|retractor|clamp|drain|pouch"
    r"|anomaly|malformation|deformity|virus|bacillus|sarcoma|anemia|encephalopathy|dementia|chorea|ataxia|tooth"
     r"|angle|hernia|nodules?|splint|wire|screw|nail|bandage|equation)\b",
    re.IGNORECASE,
)  # fmt: skip
DRUG = re.compile(
    r"(?:mycin|cillin|oxacin|azole|pril|sartan|statin|olol|dipine|prazole|tidine|sone|solone|mab|nib|vir|parin"
     r"|gliptin|glinide|zepam|zolam|barbital|caine|setron"
    r"|triptan|phylline|terol|tropium|thiazide|semide|lukast|dronate|fibrate|floxacin|cycline|profen|oxicam"
     r"|codone|morphone|peridol|apine|idone|etine|aline|azine)$",
)  # fmt: skip
ACTS = re.compile(
    r"\s+(?:reports?|reported|states?|stated|says|said|denies|denied|is a|was seen|called|calls|present(?:s|ed)"
     r"|complain(?:s|ed)|came|underwent|lives|works|drove|brought|told"
    r"|phoned|wants|asked|will (?:return|follow|call|see)|returned|tolerated|agree[sd]?|accompanied|saw"
     r"|has been|had been|does|did|also|then|understands|feels|felt|noticed|works|smokes|drinks)\b"
)  # fmt: skip
WORD = re.compile(r"[A-ZÀ-ÖØ-Þ][\w'’]*(?:-[\w'’]+)*")
START = re.compile(r"(?:^|[.!?:;•*\"“\n\r\t(\[/|]|\d\)|\d\.|[-–—])\s*$")
SURROGATE = re.compile(r"\[[A-Z][A-Z>0-9 ]*\]|\[\*\*.*?\*\*\]")
