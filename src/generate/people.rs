//! Believable people: names in many scripts, mail addresses, countries, and some of each missing.

use rand::RngExt;

type Rng = rand::rngs::Xoshiro256PlusPlus;

/// Given names with the form they take in a mail address.
const GIVEN: [(&str, &str); 24] = [
    ("Alice", "alice"),
    ("Amara", "amara"),
    ("Björn", "bjoern"),
    ("Chloé", "chloe"),
    ("Dmitri", "dmitri"),
    ("Ela", "ela"),
    ("Fatima", "fatima"),
    ("George", "george"),
    ("Hana", "hana"),
    ("İbrahim", "ibrahim"),
    ("José", "jose"),
    ("Kwame", "kwame"),
    ("Łukasz", "lukasz"),
    ("Mei", "mei"),
    ("Niamh", "niamh"),
    ("Olu", "olu"),
    ("Priya", "priya"),
    ("Quinn", "quinn"),
    ("Ruth", "ruth"),
    ("Søren", "soeren"),
    ("太郎", "taro"),
    ("Ольга", "olga"),
    ("يوسف", "yusuf"),
    ("Zoë", "zoe"),
];

const FAMILY: [(&str, &str); 20] = [
    ("Andersson", "andersson"),
    ("Bianchi", "bianchi"),
    ("Castillo", "castillo"),
    ("D'Angelo", "dangelo"),
    ("Eriksen", "eriksen"),
    ("García", "garcia"),
    ("Haddad", "haddad"),
    ("Iyer", "iyer"),
    ("Jansen", "jansen"),
    ("Kowalski", "kowalski"),
    ("Müller", "mueller"),
    ("Nguyễn", "nguyen"),
    ("O'Brien", "obrien"),
    ("Okafor", "okafor"),
    ("Silva", "silva"),
    ("Smith", "smith"),
    ("小林", "kobayashi"),
    ("Иванова", "ivanova"),
    ("Yılmaz", "yilmaz"),
    ("Ødegård", "odegard"),
];

/// Names that break what is written without care: quotes, tabs, line ends, backslashes, emoji, blanks at the end, empty text.
const AWKWARD: [&str; 9] =
    ["Robert'); --", "Tab\tbed", "Two\nlines", "Back\\slash \\N", "\"Quoted\"", "Smile 😀", "Trailing ", "", "NULL"];

pub(super) const COUNTRIES: [&str; 28] = [
    "AR", "AU", "BR", "CA", "CH", "CN", "DE", "DK", "EG", "ES", "FR", "GB", "GH", "IE", "IN", "IT", "JP", "KE", "MX",
    "NG", "NL", "NO", "NZ", "PL", "SE", "TR", "US", "ZA",
];

/// Codes that ISO 3166 doesn't know, as sources really send them.
const UNKNOWN_COUNTRIES: [&str; 6] = ["XX", "UK", "ZZ", "de", "", "USA"];

/// What a user's row holds beside its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) name: Option<String>,
    pub(super) email: Option<String>,
    pub(super) country: Option<String>,
}

impl Profile {
    pub(super) fn random(rng: &mut Rng) -> Self {
        let (given, mail_given) = GIVEN[rng.random_range(0..GIVEN.len())];
        let (family, mail_family) = FAMILY[rng.random_range(0..FAMILY.len())];
        let name = match rng.random_range(0..400) {
            0 => None,
            1 => Some("é".repeat(255)),
            2..6 => Some(AWKWARD[rng.random_range(0..AWKWARD.len())].to_owned()),
            _ => Some(format!("{given} {family}")),
        };
        let number: u16 = rng.random_range(1..1000);
        let email = rng.random_bool(0.98).then(|| format!("{mail_given}.{mail_family}{number}@example.com"));
        Self { name, email, country: country(rng) }
    }

    /// The same person after one change.
    pub(super) fn changed(&self, rng: &mut Rng) -> Self {
        let fresh = Self::random(rng);
        // Whoever came from a country nobody knows, or with an impossible name, stays that way for a while.
        match rng.random_range(0..3) {
            0 => Self { name: fresh.name, ..self.clone() },
            1 => Self { email: fresh.email, ..self.clone() },
            _ => Self { country: fresh.country, ..self.clone() },
        }
    }
}

fn country(rng: &mut Rng) -> Option<String> {
    rng.random_bool(0.95).then(|| COUNTRIES[rng.random_range(0..COUNTRIES.len())].to_owned())
}

pub(super) fn unknown_country(rng: &mut Rng) -> String {
    UNKNOWN_COUNTRIES[rng.random_range(0..UNKNOWN_COUNTRIES.len())].to_owned()
}

/// A name that no `VARCHAR(255)` holds, sometimes by one character.
pub(super) fn long_name(rng: &mut Rng) -> String {
    "ł".repeat(rng.random_range(256..300))
}

/// The id of the user number `index` at the start: a number mostly, and groups of ids that careless collations call equal.
pub(super) fn first_id(index: u32) -> String {
    let group = index / 64;
    match index % 64 {
        40 => format!("max{group}"),
        41 => format!("Max{group}"),
        42 => format!("mäx{group}"),
        43 => format!("max{group} "),
        _ => (index + 1).to_string(),
    }
}
