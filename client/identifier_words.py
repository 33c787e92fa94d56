"""Words of the identifier scan: columns that identify, words that are no names, given names."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


COLUMN_KINDS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "birth-date": (
        _words("""
            birthdate birthday datenaissance dateofbirth fechanacimiento geburtsdatum geburtstag
        """),
        _words("""
            bdate birth birthdate birthday born dob geb geburtsdatum nacimiento naissance
        """),
    ),
    "name": (
        _words("""
            doctorname familyname firstname forename fullname givenname lastname maidenname
            middlename nachname name nextofkin operatorname patientname physicianname subjectname
            surname vorname
        """),
        _words("""
            apellido apellidos arzt cognome doctor father firstname forename initials kin lastname
            mother nachname nom nurse operator physician prenom prénom referring spouse surname
            technician vorname
        """),
    ),
    "record-number": (
        _words("""
            accessionnumber casenumber chartnumber driverslicense fallnummer healthcard healthplan
            hospitalid hospitalnumber idcard insuranceno insurancenumber licensenumber
            medicalrecord medicalrecordnumber nationalid passport patientno patientnumber
            policynumber recordno recordnumber socialsecurity versicherungsnummer
        """),
        _words("""
            accession account admission ahv bsn cpr encounter fallnr fallnummer hicn iban insurance
            insurer kvnr licence license medicaid medicare mrn nhs nhsnumber passport patid pid
            policy ssn svnr versicherung visit
        """),
    ),
    "phone": (
        _words("""
            mobilenumber phonenumber telefonnummer telephone
        """),
        _words("""
            cell fax handy mobile phone tel telefon telefone telefono telephone
        """),
    ),
    "email": (
        _words("""
            emailaddress
        """),
        _words("""
            email mail
        """),
    ),
    "address": (
        _words("""
            birthplace homeaddress postalcode postcode streetaddress zipcode
        """),
        _words("""
            address adresse city county direccion indirizzo ort plz postal postcode residence
            strasse straße street town village wohnort zip zipcode
        """),
    ),
    "network-address": (
        _words("""
            ipaddress macaddress
        """),
        _words("""
            homepage ip url website
        """),
    ),
    "device": (
        _words("""
            deviceserial serialno serialnumber
        """),
        _words("""
            imei serial
        """),
    ),
    "exact-date": (
        _words("""
            admissiondate dateofdeath dischargedate
        """),
        _words("""
            admitted date datetime datum deathdate discharged fecha
        """),
    ),
    "free-text": (
        frozenset(),
        _words("""
            bemerkung comment comments freetext note notes remark remarks
        """),
    ),
}
"""Kind: (names without separators, from 7 letters on also inside a longer name; single words)."""

PARTICLES = _words("""
    al ben bin da de del den der di dos du e el ibn la le ter van von y zu zur
""")
"""Words inside a name that are not capitalised everywhere."""

TITLES = tuple(
    sorted(
        _words("""
    dr frau herr miss mme mr mrs ms prof signor signora sr sra
""")
    )
)

NOT_NAMES = _words("""
    a abnormal abp ac acc accelerometer acceptable acceptance active adc adult af afib afl
    aisdwam40 alarm alarms all alpha ambulance ambulatory amp amplifier amplitude anaesthesia
    analog and angina annotated annotation annotations anon anonym anonymised anonymized anonymous
    anterior aortic apb apple april arm arrhythmia arterial artifact asystole atrial august auto av
    avf avl avr band base baseline beat beats bed beta bicuspid bidmc bigeminy bio biopac block
    blood blue both bottom bpm bradycardia branch bundle cable cardiac cardiology cardiomyopathy
    carescape ccu cerebral channel channels chest cinc cinc15 cleaned climbing clinic clinical code
    cohort column coma computed control controls copy coronary corp corrected csru csv ct cut
    cycling daily dash dat data datex day days db dc dcm december default deg degree demo device
    diabetes diabetic diastolic digital disease dose driving drug duration ecg ecg1 ecg2 ecgid ecgs
    edf edfbrowser eeg einthoven ejection ekg el250 elderly electrocardiogram electrode electrodes
    elevation emergency emg empatica end eog episode episodes equipment er event events excellent
    exercise export extremities failure fair false february female fibrillation file files filter
    filtered final finger first fitbit flutter fold folder followup for format fraction frame frank
    friday from gain gamma garmin gmbh goldberger good green group gyro hand hea healthy heart
    height hf high highpass holdout holter hospital hour hourly hours hp hr hypertension
    hypertensive hypertonie hypotension hz icu id ii iii image in inc index infarct infarction
    inferior inpatient instrument insufficiency intellivue intensive interval ir ischemia iso ispc
    january jogging july junctional june kg kohden lab large lateral lbb lbbb lead leads left
    length level limb linear lot low lowpass lp ltd lunch mac male man manual march masimo mask max
    may mdc mean meaning measured measurement median medication medium meta micu mild min minute
    minutes mitdb mitral mixed ml mlii mm mmhg mode model moderate monday monitor monitoring
    morphology mortara motion mri ms mv myocardial nan negative nellcor new nicu night nihon no
    noise noisy none nonsmoker normal normale not notch november nsr nst nu number october of off
    ohmeda old on onset or original other outpatient overdrive pac paced pacemaker pacing
    paroxysmal part patient patientid patients peak pediatric period philips phone physical
    physionet picu placed placement pleth plethysmogram polar poor positive posterior postoperative
    ppg ppgbp ppgs pr pre predominant prehypertension premature pressure prolonged proximal
    pseudonym pulse pvc pvcs qrs qt quality random rate raw rbb rbbb read reading rec record
    recorded recorder recording recordings red reference regurgitation rem repeat report resp
    respiration rest resting result reviewed rhythm right row run running s1 sample samples
    sampling samsung saturday scan schiller scpecg sd second seconds segment sensitivity sensor
    sepsis septal september session sessions severe sex shimmer shock short sicu siemens signal
    signala signalb signals sim simulated single sinus sinusrhythm site sitting sleep slow small
    smartphone smoker soccer split spo2 st stage stairs standard standing start startdate state
    status std stenosis stop stress stroke study sub subject sunday supine supraventricular surgery
    svt sync synthetic systolic table tachycardia tape task temp temperature test tested the
    therapy third thursday time tiny to trace traces train training treadmill trial tricuspid true
    tuesday type uci ucum uncertain uncontrolled unit units unknown unreadable unreviewed up upper
    upright v valid validation value valve vector ventricular version vf volunteer volunteers vt
    walk walking ward wave waveform waves wearable wednesday week weeks welltory wilson window with
    woman working wrist xml year years yes young zero
""")
"""Words of the trade: two capitalised ones in a row ("Stage Hypertension") are no name."""

GIVEN_NAMES = _words("""
    aaron adam agnieszka ahmed aino aisha akira alexander ali ama amanda amara amelia amit amy ana
    andreas andrew angela anja anjali anke anna anthony antonio arjun ashley astrid ayse ayşe
    barbara benjamin betty birgit bjorn björn brandon brenda brian carl carmen carol carolyn
    catherine charles charlotte chiara chidi christa christina christine christopher cynthia daniel
    david deborah debra deepak dennis diane dieter dmitri donald donna dorothy edward elizabeth
    emily emma emre eric erik evelyn fang fatima fatma felix fernanda finn francesca francisco
    francois françois freya gabriele gary george giovanni gisela giulia giuseppe gregory guenter
    gustav günter hans harold haruto hassan heather heike heinz helen helga henry hiroshi ibrahim
    ingrid irina isabel isabella isabelle ivan jack jacob jacques james jan janet jari jason javier
    jean jeffrey jennifer jens jerry jessica jing joan joao john jonas jonathan jose joseph joshua
    joyce joão juan juergen julie justin jürgen karen katarzyna katherine kathleen katrin kelly
    kenji kenneth kevin khadija klaus kofi krzysztof kwame kyle lakshmi larry lars laura lauren
    lena leonie li liam linda lisa luc luca lucas lucia lucía luiz lukas manfred manuel marco
    margaret maria marie martina mary matthew mehmet melissa mia michael michelle miguel mikko ming
    mohamed mohammed monika muhammad mustafa nancy natalia nathalie nathan ngozi nicholas nicole
    nils noah olga oliver olivia omar pamela paolo patricia patrick paul paulo pedro peter petra
    philippe pierre pilar piotr priya rachel rahul raj rebecca renate richard robert ronald ruth
    ryan sabine sakura samantha samuel sandra sarah scott sergei sharon shirley sophia stefan
    stephanie stephen steven sunita susan sven svetlana sylvie tatiana thomas timothy tyler ursula
    uwe victoria virginia vladimir walter wei william wolfgang yuki yuri yusuf zachary
""")
"""Frequent given names of many countries: one of them alone is enough."""
