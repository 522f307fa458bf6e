//! `mysql://user:password@host:port/database`: the parts of the URL under `mysql.url`.
//!
//! Where the URL stands in the file with variables for some of its parts, it is cut before they are filled in: a user or
//! password from a variable is taken as it is, whatever characters it has. What is written out, and a URL that comes from a
//! variable as a whole, is percent-encoded as usual. Faults never quote any part of the URL.

use super::names;
use super::secret::Secret;
use super::variables::{Environment, Piece, VariableFault, fill, pieces};

pub(super) const DEFAULT_PORT: u16 = 3306;

/// The parts of a MySQL URL.
#[derive(Debug, Clone)]
pub(super) struct MySqlUrl {
    pub user: String,
    /// `None` where the URL has none.
    pub password: Option<Secret>,
    /// Whether the password, or a part of it, is written out in the file.
    pub password_written: bool,
    /// Name or address, an IPv6 address without its brackets.
    pub host: String,
    pub port: u16,
    pub database: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum UrlFault {
    Variable(VariableFault),
    /// What is wrong, without any part of the URL.
    Malformed(String),
}

/// Reads the URL as `written` in the file.
pub(super) fn parse(written: &str, environment: &Environment<'_>) -> Result<MySqlUrl, Vec<UrlFault>> {
    let parts = match pieces(written) {
        Ok(pieces) => cut(&pieces, environment)?,
        Err(fault) => return Err(vec![UrlFault::Variable(fault)]),
    };
    let mut faults = Vec::new();
    let mut refuse = |what: &str| faults.push(UrlFault::Malformed(what.to_owned()));
    if parts.user.is_empty() {
        refuse("the URL names no user");
    }
    let (place, path) = parts.rest.split_once('/').unwrap_or((&parts.rest, ""));
    if parts.rest.contains(['?', '#']) {
        refuse("the URL has parameters (after ?), which are not read");
    } else if path.is_empty() {
        refuse("the URL names no database");
    } else if let Some(what) = names::database(path) {
        refuse(&format!("the database in the URL {what}"));
    }
    let (host, port) = match host_and_port(place) {
        Ok(found) => found,
        Err(what) => {
            refuse(what);
            (String::new(), DEFAULT_PORT)
        }
    };
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(MySqlUrl {
        user: parts.user,
        password: parts.password.map(Secret::new),
        password_written: parts.password_written,
        host,
        port,
        database: path.to_owned(),
    })
}

/// User and password apart from the rest, variables filled in.
struct Parts {
    user: String,
    password: Option<String>,
    password_written: bool,
    /// Host, port and path.
    rest: String,
}

fn cut(pieces: &[Piece], environment: &Environment<'_>) -> Result<Parts, Vec<UrlFault>> {
    let at_sign = pieces.iter().rposition(|piece| matches!(piece, Piece::Written(text) if text.contains('@')));
    let scheme = pieces.first().and_then(|piece| match piece {
        Piece::Written(text) => strip_scheme(text),
        Piece::Variable { .. } => None,
    });
    let (Some(at_sign), Some(first)) = (at_sign, scheme) else {
        // The structure itself comes from a variable (or there is none): fill in, then read it as one text.
        let filled = fill(pieces, environment).map_err(|fault| vec![UrlFault::Variable(fault)])?;
        return cut_text(&filled, !pieces.iter().any(|piece| matches!(piece, Piece::Variable { .. })));
    };
    let mut pieces = pieces.to_vec();
    if let Some(scheme) = pieces.first_mut() {
        *scheme = Piece::Written(first.to_owned());
    }
    let (credentials, rest) = split_at(&pieces, at_sign, Split::Last('@'));
    let colon = credentials.iter().position(|piece| matches!(piece, Piece::Written(text) if text.contains(':')));
    let (user, password) = match colon {
        Some(colon) => {
            let (user, password) = split_at(&credentials, colon, Split::First(':'));
            (user, Some(password))
        }
        None => (credentials, None),
    };
    let mut faults = Vec::new();
    let mut read = |pieces: &[Piece], encoded: bool| {
        let decoded: Option<Vec<Piece>> = if encoded { decode_written(pieces) } else { Some(pieces.to_vec()) };
        match decoded {
            Some(decoded) => match fill(&decoded, environment) {
                Ok(text) => return text,
                Err(fault) => faults.push(UrlFault::Variable(fault)),
            },
            None => faults.push(UrlFault::Malformed(BAD_ENCODING.to_owned())),
        }
        String::new()
    };
    let parts = Parts {
        user: read(&user, true),
        password_written: password.iter().flatten().any(is_written_secret),
        password: password.as_deref().map(|password| read(password, true)),
        rest: read(&rest, false),
    };
    if faults.is_empty() { Ok(parts) } else { Err(faults) }
}

const BAD_ENCODING: &str = "user or password in the URL has a % that starts no percent-encoded character";

fn is_written_secret(piece: &Piece) -> bool {
    match piece {
        Piece::Written(text) => !text.is_empty(),
        Piece::Variable { default, .. } => default.as_ref().is_some_and(|default| !default.is_empty()),
    }
}

/// A URL that is one text, everything percent-encoded.
fn cut_text(text: &str, written: bool) -> Result<Parts, Vec<UrlFault>> {
    let malformed = |what: &str| vec![UrlFault::Malformed(what.to_owned())];
    let Some(rest) = strip_scheme(text) else {
        return Err(malformed("the URL does not start with mysql://"));
    };
    let Some((credentials, rest)) = rest.rsplit_once('@') else {
        return Err(malformed("the URL names no user"));
    };
    let (user, password) = match credentials.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (credentials, None),
    };
    let decoded = |text: &str| percent_decoded(text).ok_or_else(|| malformed(BAD_ENCODING));
    Ok(Parts {
        user: decoded(user)?,
        password_written: written && password.is_some_and(|password| !password.is_empty()),
        password: password.map(decoded).transpose()?,
        rest: rest.to_owned(),
    })
}

fn strip_scheme(text: &str) -> Option<&str> {
    text.strip_prefix("mysql://").or_else(|| text.strip_prefix("mariadb://"))
}

enum Split {
    First(char),
    Last(char),
}

/// Cuts within the written piece at `index`, at the first or last of a character, which is dropped.
fn split_at(pieces: &[Piece], index: usize, split: Split) -> (Vec<Piece>, Vec<Piece>) {
    let (before, from) = pieces.split_at(index.min(pieces.len()));
    let (mut left, mut right) = (before.to_vec(), Vec::new());
    if let Some((Piece::Written(text), after)) = from.split_first() {
        let halves = match split {
            Split::First(character) => text.split_once(character),
            Split::Last(character) => text.rsplit_once(character),
        };
        let (start, end) = halves.unwrap_or((text, ""));
        left.extend((!start.is_empty()).then(|| Piece::Written(start.to_owned())));
        right.extend((!end.is_empty()).then(|| Piece::Written(end.to_owned())));
        right.extend_from_slice(after);
    }
    (left, right)
}

/// Percent-decodes what is written out; variables stay as they are. `None` for a wrong encoding.
fn decode_written(pieces: &[Piece]) -> Option<Vec<Piece>> {
    let decoded = pieces.iter().map(|piece| match piece {
        Piece::Written(text) => percent_decoded(text).map(Piece::Written),
        variable @ Piece::Variable { .. } => Some(variable.clone()),
    });
    decoded.collect()
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// `host`, `host:port`, `[::1]:port`.
fn host_and_port(text: &str) -> Result<(String, u16), &'static str> {
    let (host, port) = match text.strip_prefix('[') {
        Some(bracketed) => {
            let (address, after) = bracketed.split_once(']').ok_or("the host in the URL has a [ without ]")?;
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return Err("the host in the URL is no IPv6 address");
            }
            match after.strip_prefix(':') {
                Some(port) => (address, Some(port)),
                None if after.is_empty() => (address, None),
                None => return Err("the port in the URL is no number from 1 to 65535"),
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() {
        return Err("the URL names no host");
    }
    if !host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':')) {
        return Err("the host in the URL has characters that no host name has");
    }
    let port = port.map_or(Some(DEFAULT_PORT), |port| port.parse().ok().filter(|port| *port != 0));
    port.map(|port| (host.to_owned(), port)).ok_or("the port in the URL is no number from 1 to 65535")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<String> {
        match name {
            "PASSWORD" => Some("p@ss:w/o%41?#rd".to_owned()),
            "URL" => Some("mysql://app:p%40ss@db:3307/shop".to_owned()),
            "PLACE" => Some("db:3308/shop".to_owned()),
            _ => None,
        }
    }

    /// User, password, host, port, database.
    type Parts = (String, Option<String>, String, u16, String);

    fn read(written: &str) -> Result<Parts, Vec<UrlFault>> {
        parse(written, &environment).map(|url| {
            (url.user, url.password.map(|password| password.expose().to_owned()), url.host, url.port, url.database)
        })
    }

    fn parts(
        user: &str,
        password: Option<&str>,
        host: &str,
        port: u16,
        database: &str,
    ) -> (String, Option<String>, String, u16, String) {
        (user.into(), password.map(Into::into), host.into(), port, database.into())
    }

    #[test]
    fn a_url_has_user_password_host_port_and_database() {
        assert_eq!(
            read("mysql://app:pw@127.0.0.1:3306/app").unwrap(),
            parts("app", Some("pw"), "127.0.0.1", 3306, "app")
        );
        assert_eq!(read("mariadb://app@db/app").unwrap(), parts("app", None, "db", 3306, "app"));
        assert_eq!(read("mysql://app:@[::1]:33/app").unwrap(), parts("app", Some(""), "::1", 33, "app"));
        assert_eq!(read("mysql://a%20b:p%40s@s@db/app").unwrap(), parts("a b", Some("p@s@s"), "db", 3306, "app"));
    }

    #[test]
    fn a_password_from_a_variable_is_taken_as_it_is() {
        let expected = parts("app", Some("p@ss:w/o%41?#rd"), "db", 3306, "app");
        assert_eq!(read("mysql://app:${PASSWORD}@db/app").unwrap(), expected);
        assert_eq!(read("mysql://app:${MISSING:-a@b}@db/app").unwrap(), parts("app", Some("a@b"), "db", 3306, "app"));
        assert_eq!(read("mysql://${USER:-root}:x${PASSWORD}@db/app").unwrap().0, "root");
    }

    #[test]
    fn a_url_or_its_end_may_come_from_a_variable() {
        assert_eq!(read("${URL}").unwrap(), parts("app", Some("p@ss"), "db", 3307, "shop"));
        assert_eq!(read("mysql://app:pw@${PLACE}").unwrap(), parts("app", Some("pw"), "db", 3308, "shop"));
    }

    #[test]
    fn a_password_written_out_is_noticed() {
        let written = |url| parse(url, &environment).unwrap().password_written;
        assert!(written("mysql://app:pw@db/app"));
        assert!(written("mysql://app:${MISSING:-pw}@db/app"));
        assert!(!written("mysql://app:${PASSWORD}@db/app"));
        assert!(!written("mysql://app@db/app"));
        assert!(!written("${URL}"));
    }

    // Proves: P6, R61
    #[test]
    fn malformed_urls_are_refused_without_quoting_them() {
        for bad in [
            "",
            "hunter2",
            "jdbc:mysql://app:hunter2@db/app",
            "postgres://app:hunter2@db/app",
            "mysql://db/app",
            "mysql://:hunter2@db/app",
            "mysql://app:hunter2@/app",
            "mysql://app:hunter2@db",
            "mysql://app:hunter2@db/",
            "mysql://app:hunter2@db:0/app",
            "mysql://app:hunter2@db:hunter2/app",
            "mysql://app:hunter2@d b/app",
            "mysql://app:hunter2@[::1/app",
            "mysql://app:hunter2@[hunter2]/app",
            "mysql://app:hunter2@db/a b",
            "mysql://app:hunter2@db/app?require_ssl=true",
            "mysql://app:hunter2%4@db/app",
            "mysql://app:hunter2@${MISSING}/app",
        ] {
            let faults = read(bad).expect_err(bad);
            assert!(!faults.is_empty() && !format!("{faults:?}").contains("hunter2"), "{bad}: {faults:?}");
        }
    }
}
