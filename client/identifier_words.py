"""Word lists of the identifier scan: columns that identify, words that are no names, common given names."""

from __future__ import annotations

COLUMN_KINDS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    # kind: (whole names without separators; from 7 letters on also inside a longer name), (single words)
    "birth-date": (
        frozenset(
            "dateofbirth birthdate birthday geburtsdatum geburtstag datenaissance fechanacimiento".split()
        ),
        frozenset(
            "dob birth born geb birthdate birthday geburtsdatum bdate naissance nacimiento".split()
        ),
    ),
    "name": (
        frozenset(
            "name fullname lastname firstname surname givenname familyname middlename patientname nachname vorname "
            "forename maidenname subjectname nextofkin physicianname doctorname operatorname".split()
        ),
        frozenset(
            "surname lastname firstname forename vorname nachname nom prenom prénom apellido apellidos cognome "
            "physician doctor operator technician nurse referring kin initials arzt mother father spouse".split()
        ),
    ),
    "record-number": (
        frozenset(
            "medicalrecord medicalrecordnumber recordnumber recordno hospitalnumber patientnumber patientno "
            "socialsecurity insurancenumber insuranceno policynumber accessionnumber casenumber fallnummer "
            "passport nationalid healthcard healthplan driverslicense licensenumber versicherungsnummer idcard "
            "hospitalid chartnumber".split()
        ),
        frozenset(
            "mrn ssn nhs insurance insurer policy accession passport nhsnumber kvnr svnr account license licence "
            "versicherung fallnr fallnummer bsn cpr hicn ahv iban medicare medicaid encounter admission "
            "visit patid pid".split()
        ),
    ),
    "phone": (
        frozenset("phonenumber telephone mobilenumber telefonnummer".split()),
        frozenset("phone telephone tel mobile cell fax telefon handy telefone telefono".split()),
    ),
    "email": (frozenset("emailaddress".split()), frozenset("email mail".split())),
    "address": (
        frozenset("homeaddress streetaddress postalcode postcode zipcode birthplace".split()),
        frozenset(
            "address street city town zip zipcode postcode postal plz adresse strasse straße ort wohnort county "
            "village indirizzo direccion residence".split()
        ),
    ),
    "network-address": (
        frozenset("ipaddress macaddress".split()),
        frozenset("ip url website homepage".split()),
    ),
    "device": (
        frozenset("serialnumber serialno deviceserial".split()),
        frozenset("imei serial".split()),
    ),
    "exact-date": (
        frozenset("admissiondate dischargedate dateofdeath".split()),
        frozenset("date datum datetime admitted discharged deathdate fecha".split()),
    ),
    "free-text": (
        frozenset(),
        frozenset("comment comments note notes remark remarks bemerkung freetext".split()),
    ),
}

PARTICLES = frozenset(
    "van von der den de la le du di da dos del el al bin ibn ben y e zu zur ter".split()
)
"""Words inside a name that are not capitalised everywhere."""

TITLES = (
    "mr",
    "mrs",
    "ms",
    "miss",
    "dr",
    "prof",
    "herr",
    "frau",
    "mme",
    "sr",
    "sra",
    "signor",
    "signora",
)

NOT_NAMES = frozenset(
    """
    a abnormal abp acc acceptable acceptance accelerometer ac active adc af afib alarm alarms all ambulatory amp amplifier amplitude
    anaesthesia analog and angina annotation annotations anonymous anonymised anonymized anterior aortic arm arrhythmia
    arterial artifact asystole atrial auto av avf avl avr band base baseline bed beat beats bicuspid bidmc bigeminy bio blood blue
    bottom bpm bradycardia branch block bundle cable cardiac cardiology cardiomyopathy channel channels chest cinc cinc15
    cleaned clinic clinical column computed control copy coronary corrected csv cut dat data day db dc default deg degree
    demo device diabetes diastolic digital disease dose drug duration ecg ecgid edf ejection ekg electrode electrodes electrocardiogram elevation
    end episode episodes equipment event events excellent exercise export extremities failure fair false female fibrillation file filter
    filtered final finger first flutter for format fraction frame from gain good green group hand heart height high
    hea hf highpass holter hospital hp hr hypertension hypertensive hypotension hz icu id ii iii image in index inferior infarction
    intensive interval ir ispc iso ischemia junctional kg lateral lbbb lead leads left length level limb lot low lowpass lp
    male man manual mask max mean measured measurement median medication medium meta mild min minute minutes
    mitdb mitral ml mlii mm mmhg mode model moderate monitor monitoring morphology motion ms mv myocardial nan
    new night no noise noisy none normal not notch nst nu number of off old on onset or original other overdrive pacemaker paced pacing
    paroxysmal part patient patients peak period phone physical physionet placed placement pleth plethysmogram poor posterior ppg
    ppgbp pr pre predominant prehypertension premature pressure prolonged proximal pulse pvc qrs qt quality random rate raw
    rbbb read reading rec record recorded recorder recording recordings red reference regurgitation rem repeat resp respiration rest
    resting result rhythm right row run s1 sample samples sampling scan sd second seconds segment sensitivity sensor septal session
    sessions severe sex short signal signals sim simulated single sinus site sleep slow smartphone spo2 st stage standard start
    state status std stenosis stop stress study subject sub supine supraventricular svt sync synthetic systolic
    table tachycardia tape task test tested the therapy third time to train training treadmill trial tricuspid true type uci uncertain
    uncontrolled unit units unknown unreadable up upper v valid validation valve value vector ventricular version vf vt walk ward wave waveform
    waves wearable week welltory window with woman wrist xml year years young zero micu sicu ccu csru nicu picu er
    mac el250 mortara philips schiller siemens nihon kohden instrument inc gmbh ltd corp aisdwam40 scpecg ucum mdc dcm
    hypertonie diabetic smoker nonsmoker yes positive negative left right both mixed einthoven goldberger wilson frank
    edfbrowser annotations startdate hourly daily monday tuesday wednesday thursday friday saturday sunday
    january february march april may june july august september october november december
    study trace traces export raw ecg1 ecg2 report folder files sinusrhythm nsr svt afl pac pvcs lbb rbb apb normale
    stroke insufficiency cerebral infarct coma sepsis shock failure surgery postoperative ambulance emergency outpatient
    inpatient pediatric adult elderly healthy volunteer control patients volunteers controls baseline followup
    ecgs ppgs signala signalb alpha beta gamma hour hours days weeks years annotated reviewed unreviewed
    intellivue carescape dash datex ohmeda masimo nellcor garmin apple fitbit samsung polar empatica shimmer biopac
    code meaning patientid anon anonym pseudonym cohort fold split holdout lab mri ct eeg emg eog acc gyro temp temperature
    linear large medium small tiny upright sitting standing walking running jogging cycling climbing stairs driving lunch working soccer
    """.split()
)
"""Words of the trade: two capitalised ones in a row ("Stage Hypertension") are no name."""

GIVEN_NAMES = frozenset(
    """
    james mary robert patricia john jennifer michael linda david elizabeth william barbara richard susan joseph jessica thomas
    sarah charles karen christopher lisa daniel nancy matthew betty anthony sandra margaret donald ashley steven emily andrew
    donna paul michelle joshua carol kenneth amanda kevin dorothy brian melissa george deborah timothy stephanie ronald rebecca
    jason sharon edward laura jeffrey cynthia ryan kathleen jacob amy gary angela nicholas shirley eric anna jonathan brenda
    stephen pamela larry emma justin nicole scott helen brandon samantha benjamin katherine samuel christine gregory debra
    alexander rachel patrick carolyn frank janet jack catherine dennis maria jerry heather tyler diane aaron ruth jose julie
    adam olivia nathan joyce henry virginia peter victoria zachary kelly walter lauren kyle christina harold joan carl evelyn
    oliver charlotte noah amelia liam sophia lucas isabella hans petra wolfgang ursula klaus monika jürgen juergen renate günter
    guenter helga dieter ingrid heinz gisela manfred christa uwe sabine stefan andreas birgit martina gabriele jens heike
    sven anke lars katrin anja lena lukas felix leonie jonas mia finn pierre marie jean jacques françois francois nathalie luc
    isabelle philippe sylvie giovanni giuseppe francesca marco luca giulia paolo chiara antonio carmen javier lucía lucia
    miguel isabel francisco pilar juan manuel pedro joão joao ana paulo luiz fernanda ivan olga dmitri natalia sergei
    svetlana vladimir tatiana yuri irina wei li ming fang jing hiroshi yuki kenji sakura haruto akira mohammed muhammad mohamed
    ahmed fatima ali aisha hassan omar khadija ibrahim yusuf mustafa mehmet ayşe ayse fatma emre priya rahul anjali
    amit sunita raj lakshmi arjun deepak kwame ama chidi ngozi kofi amara jan piotr anna agnieszka krzysztof katarzyna
    björn bjorn erik astrid gustav freya nils ingrid mikko aino jari
    """.split()
)  # fmt: skip
"""Frequent given names of many countries: one of them alone is enough."""
