"""Phrases of time in English, German, Spanish and French; `time_words` says what the symbols mean."""

EN = """
N 2 | two, a couple of, couple of, a couple, couple
N 3 | three, a few, few
N 1.5 | one and a half
N 1 | one
N 4 | four
N 5 | five
N 6 | six
N 7 | seven
N 8 | eight
N 9 | nine
N 10 | ten
N 11 | eleven
N 12 | twelve
N 15 | fifteen
N 20 | twenty
N 24 | twenty four
N 30 | thirty
N 40 | forty
N 45 | forty five
N 48 | forty eight
N 60 | sixty
N 90 | ninety
1 1 | a, an
U s | second, seconds, sec, secs
U m | minute, minutes, min, mins
U h | hour, hours, hr, hrs
U Q | half hour
U d | day, days
U w | week, weeks
U M | month, months
U y | year, years
P early_morning | small hours, early hours, dawn
P morning | morning, forenoon
P noon | noon, midday, noontime
p lunchtime | lunchtime, lunch time, lunch, lunch break
P afternoon | afternoon
P evening | evening
P night | night, nights, nighttime, night time
I night -2 | night before last
l 0 | midnight
w 5 | !sat
w 6 | !sun
D 0 | today
D -1 | yesterday
D -2 | day before yesterday
D 1 | tomorrow
W 0 | monday, !mon
W 1 | tuesday, !tue, !tues
W 2 | wednesday, !wed
W 3 | thursday, !thu, !thur, !thurs
W 4 | friday, !fri
W 5 | saturday
W 6 | sunday
J 1 | january, jan
J 2 | february, feb
J 3 | !march
J 4 | april, !apr
J 5 | !may
J 6 | june, !jun
J 7 | july, !jul
J 8 | august, aug
J 9 | september, !sept
J 10 | october, !oct
J 11 | november, nov
J 12 | december, !dec
E 0 | weekend, week end
h 0.5 | half
q 0.25 | quarter
k 12 | o clock, oclock
M 0 | am, a m
M 12 | pm, p m
L 0 | last, previous
R 0 | past, preceding
X 0 | next, coming
T 0 | this, these
A 0 | ago
S 0 | since, ever since
B 0 | before, prior to, earlier than
F 0 | after, later than, following
F 1 | shortly after, just after, right after, soon after
B 1 | shortly before, just before, right before
j 0 | by
u 0 | on wards, onwards, onward
t 0 | to, until, till, up to, through, up until
f 0 | from
K 0 | between, in between
& 0 | and
a 0 | at
o 0 | around, about, approximately, roughly, circa, at around, at about, at approximately, some time around, sometime around
i 0 | in, on, during, over, within, throughout, across, in the course of, as of
g 0 | the
b 0 | of, s
y 0 | early
e 0 | late, later, earlier, so far, all, whole, entire, all day, the whole day, middle of
> 0 | more than
< 0 | less than
Z 0 | just now, a moment ago, a second ago, moments ago, a minute ago now
n 0 | now, right now, the present
I tonight 0 | tonight
I night -1 | overnight
"""

DE = """
N 1 | eins
N 2 | zwei, ein paar
N 3 | drei, einigen
N 1.5 | anderthalb, eineinhalb
N 2.5 | zweieinhalb
N 4 | vier
N 5 | funf, fuenf
N 6 | sechs
N 7 | sieben
N 8 | acht
N 9 | neun
N 10 | zehn
N 11 | elf
N 12 | zwolf, zwoelf
N 15 | funfzehn, fuenfzehn
N 20 | zwanzig
N 24 | vierundzwanzig
N 30 | dreissig, dreißig
N 40 | vierzig
N 45 | funfundvierzig, fuenfundvierzig
N 48 | achtundvierzig
N 60 | sechzig
N 90 | neunzig
1 1 | !ein, !eine, !einer, !einem, !einen
U s | sekunde, sekunden
U m | minute, minuten, min
U h | stunde, stunden, std
U q | viertelstunde, viertelstunden
U d | tag, tage, tagen
U w | woche, wochen
U M | monat, monate, monaten
U y | jahr, jahre, jahren
P early_morning | fruhen morgen, fruehen morgen, morgengrauen
p early_morning | fruhmorgens, fruehmorgens
P morning | vormittag
p morning | vormittags, morgens, in der fruh, in der fruhe
P noon | mittag
p noon | mittags
p lunchtime | mittagszeit, mittagspause, mittagessen
P afternoon | nachmittag
p afternoon | nachmittags
P evening | abend
p evening | abends
P night | nacht, nachte, nachten
l 0 | mitternacht
p night | nachts
D 0 | heute
x 0 | !guten morgen
D -1 | gestern
D -2 | vorgestern
Q 0 | !morgen
I morning 0 | heute fruh, heute frueh
I morning -1 | gestern fruh, gestern frueh
I night ? | heute nacht, diese nacht, in dieser nacht, heut nacht
I night -1 | uber nacht, ueber nacht
W 0 | montag
W 1 | dienstag
W 2 | mittwoch
W 3 | donnerstag
W 4 | freitag
W 5 | samstag, sonnabend
W 6 | sonntag
J 1 | januar, janner
J 2 | februar
J 3 | marz, maerz
J 4 | !april
J 5 | !mai
J 6 | juni
J 7 | juli
J 8 | !august
J 9 | !september
J 10 | oktober
J 11 | !november
J 12 | dezember
E 0 | wochenende
h 0.5 | halb, halbe, halben
q 0.25 | viertel
k 24 | uhr
L 0 | letzte, letzten, letzter, letztes, vergangene, vergangenen, vergangener, vergangenes, vorige, vorigen, voriger
X 0 | nachste, nachsten, naechste, naechsten, kommende, kommenden
T 0 | !diese, !diesen, !dieser, !diesem, !dieses
A 0 | her
v 0 | !vor
S 0 | seit, ab, seitdem
F 0 | nach
F 1 | kurz nach
B 1 | kurz vor
t 0 | !bis, bis zum, bis zur, bis um
f 0 | !von, !vom
K 0 | zwischen
& 0 | und
a 0 | !um
o 0 | gegen, ungefahr, ungefaehr, etwa, um etwa, zirka, ungefahr um, so um, so gegen, rund um
i 0 | !am, !im, in, !an, wahrend, waehrend, uber, ueber, innerhalb, im laufe
g 0 | !der, !die, !das, !den, !dem, !des, !zum, !zur
y 0 | fruh, frueh, fruhen
e 0 | spat, spaet, spaten, fruher, frueher, spater, spaeter, ganzen, ganze, den ganzen tag, mitten
> 0 | mehr als
< 0 | weniger als
Z 0 | gerade eben, eben gerade, soeben
n 0 | jetzt
"""

ES = """
N 1 | uno
N 2 | dos, un par de, par de
N 3 | tres, unos pocos, unas pocas
N 4 | cuatro
N 5 | cinco
N 6 | seis
N 7 | siete
N 8 | ocho
N 9 | nueve
N 10 | diez
N 11 | !once
N 12 | doce
N 15 | quince
N 20 | veinte
N 24 | veinticuatro
N 30 | treinta
N 40 | cuarenta
N 45 | cuarenta y cinco
N 48 | cuarenta y ocho
N 60 | sesenta
N 90 | noventa
1 1 | !un, !una
U s | segundo, segundos
U m | minuto, minutos
U h | hora, horas
U d | dia, dias
U w | semana, semanas
U M | mes, meses
U y | ano, anos
P early_morning | amanecer
P madrugada | madrugada
p madrugada | de madrugada
P noon | mediodia, medio dia
p lunchtime | hora de comer, hora del almuerzo, hora de la comida, almuerzo
P tarde | tarde
P noche | noche, noches
l 0 | medianoche, media noche
D 0 | hoy
D -1 | ayer
D -2 | anteayer, antes de ayer, antier
Q 0 | !manana
I night -1 | anoche
I night -2 | anteanoche, antes de anoche
W 0 | lunes
W 1 | martes
W 2 | miercoles
W 3 | jueves
W 4 | viernes
W 5 | sabado
W 6 | domingo
J 1 | enero
J 2 | febrero
J 3 | marzo
J 4 | abril
J 5 | mayo
J 6 | junio
J 7 | julio
J 8 | agosto
J 9 | septiembre, setiembre
J 10 | octubre
J 11 | noviembre
J 12 | diciembre
E 0 | fin de semana, finde
h 0.5 | media, medio
q 0.25 | cuarto
m 0 | menos
k 12 | en punto, horas
R 0 | ultimo, ultima, ultimos, ultimas
L 0 | pasado, pasada, anterior
X 0 | proximo, proxima, que viene
T 0 | !este, !esta, !estos, !estas
A 0 | hace
S 0 | desde, desde hace, a partir de
B 0 | antes de, antes del, antes de las, antes de la
F 1 | poco despues de, poco despues de las, justo despues de
B 1 | poco antes de, poco antes de las, justo antes de
F 0 | despues de, despues del, despues de las, despues de la
t 0 | hasta, hasta las, hasta la
c 0 | !a
K 0 | !entre
& 0 | !y, !e
a 0 | a las, a la
o 0 | sobre las, sobre la, hacia las, hacia la, a eso de las, a eso de la, sobre el, alrededor del
o 0 | alrededor de las, alrededor de la, cerca de las, aproximadamente a las
i 0 | !en, !por, durante, a lo largo de, !al
b 0 | !de, !del
g 0 | !el, !la, !los, !las, !el dia
y 0 | temprano, primera hora de
e 0 | todo, toda, todo el dia, lo que va de
> 0 | mas de
< 0 | menos de
Z 0 | hace un momento, hace un instante, justo ahora
n 0 | ahora
"""

FR = """
N 1 | !une
N 2 | deux
N 3 | trois, quelques
N 4 | quatre
N 5 | cinq
N 6 | !six
N 7 | !sept
N 8 | huit
N 9 | neuf
N 10 | dix
N 11 | onze
N 12 | douze
N 15 | quinze
N 20 | vingt
N 24 | vingt quatre
N 30 | trente
N 40 | quarante
N 45 | quarante cinq
N 48 | quarante huit
N 60 | soixante
N 90 | quatre vingt dix
1 1 | !un, !une
U s | seconde, secondes
U m | minute, minutes
U h | heure, heures
U Q | demi heure, demie heure
U d | jour, jours
U w | semaine, semaines
U M | mois
U y | annee, annees, an, ans
P early_morning | aube, petit matin, petit jour
P morning | matin, matinee
P noon | midi
p lunchtime | heure du dejeuner, pause dejeuner, l heure du dejeuner, dejeuner
P afternoon | apres midi, aprem
P evening | soir, soiree
P night | nuit, nuits
l 0 | minuit
D 0 | aujourd hui, aujourdhui
D -1 | !hier
D -2 | avant hier
D 1 | demain
I night ? | cette nuit
W 0 | lundi
W 1 | mardi
W 2 | mercredi
W 3 | jeudi
W 4 | vendredi
W 5 | samedi
W 6 | dimanche
J 1 | janvier
J 2 | fevrier
J 3 | !mars
J 4 | avril
J 5 | !mai
J 6 | juin
J 7 | juillet
J 8 | aout
J 9 | septembre
J 10 | octobre
J 11 | novembre
J 12 | decembre
E 0 | week end, fin de semaine
h 0.5 | demi, demie
q 0.25 | quart
m 0 | moins, moins le
R 0 | derniere, dernieres, derniers, dernier
L 0 | passe, passee, precedent, precedente
X 0 | prochain, prochaine
T 0 | !ce, !cet, !cette, !ces
A 0 | il y a, y a
S 0 | depuis, a partir de
B 0 | avant
F 0 | !apres
F 1 | peu apres, juste apres
B 1 | peu avant, juste avant
u 0 | a partir
t 0 | jusqu a, jusqu au, jusqu en
c 0 | !a
K 0 | !entre
& 0 | !et
o 0 | vers, environ, autour de, aux alentours de, aux environs de
i 0 | !dans, pendant, durant, au cours de, au cours des, !en, !au, lors de
b 0 | !de, !du, !des, !d
g 0 | !le, !la, !les, !l
y 0 | tot
e 0 | tard, plus tot, plus tard, toute, tout, toute la journee, milieu de, fin de, fin d, debut de, debut d
> 0 | plus de
< 0 | moins de
Z 0 | a l instant, il y a un instant
n 0 | maintenant
"""
