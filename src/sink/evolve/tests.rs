use super::plan::{clause, combined, definition};
use super::wider::{Need, need, wished};
use super::*;
use crate::target::Holds;

fn column(name: &str, ddl_type: &str) -> Column {
    let bare = ddl_type.split(" CHARACTER").next().unwrap();
    let (base, rest) = bare.split_once('(').unwrap_or((bare.split(' ').next().unwrap(), ""));
    let numbers: Vec<u64> =
        rest.split(')').next().unwrap().split(',').filter_map(|number| number.trim().parse().ok()).collect();
    let unsigned = bare.contains("unsigned");
    let int = |bits: u32| match unsigned {
        true => Holds::Int { min: 0, max: (1_i128 << bits) - 1 },
        false => Holds::Int { min: -(1_i128 << (bits - 1)), max: (1_i128 << (bits - 1)) - 1 },
    };
    let first = numbers.first().copied().unwrap_or_default();
    let holds = match base {
        "tinyint" if first == 1 => Holds::Bool,
        "tinyint" => int(8),
        "smallint" => int(16),
        "int" => int(32),
        "bigint" => int(64),
        "bit" => Holds::Int { min: 0, max: (1_i128 << first) - 1 },
        "decimal" => Holds::Decimal { precision: first as u8, scale: numbers[1] as u8 },
        "float" => Holds::Float,
        "double" => Holds::Double,
        "date" => Holds::Date,
        "datetime" | "timestamp" => Holds::DateTime { digits: first as u8 },
        "json" => Holds::Json,
        "varbinary" | "blob" => Holds::Bytes { max_bytes: first },
        _ => Holds::Text { max_chars: first, max_bytes: first * 4 },
    };
    Column { name: name.to_owned(), ddl_type: ddl_type.to_owned(), holds, nullable: true }
}

fn table(columns: &[(&str, &str)]) -> Target {
    let columns = columns.iter().map(|(name, ddl_type)| column(name, ddl_type)).collect();
    Target { table: "t".to_owned(), columns, key_len: 1 }
}

#[test]
fn a_column_is_widened_to_what_holds_both() {
    for (now, wanted, to) in [
        ("int", "bigint", "bigint"),
        ("bigint", "int", ""),
        ("int unsigned", "int", "bigint"),
        ("tinyint unsigned", "smallint unsigned", "smallint unsigned"),
        ("int", "bigint unsigned", "decimal(20,0)"),
        ("tinyint(1)", "tinyint", "tinyint"),
        ("int", "decimal(12,2)", "decimal(12,2)"),
        ("int", "decimal(4,2)", "decimal(12,2)"),
        ("decimal(10,0)", "int", ""),
        ("decimal(9,0)", "int", "decimal(10,0)"),
        ("decimal(10,2)", "decimal(12,4)", "decimal(12,4)"),
        ("decimal(10,2)", "decimal(10,4)", "decimal(12,4)"),
        ("decimal(12,4)", "decimal(10,2)", ""),
        ("decimal(60,0)", "decimal(38,30)", "no"),
        ("float", "double", "double"),
        ("double", "float", ""),
        ("date", "datetime(3)", "datetime(3)"),
        ("datetime", "datetime(6)", "datetime(6)"),
        ("timestamp", "datetime(3)", "timestamp(3)"),
        ("datetime(6)", "datetime", ""),
        ("varchar(20) CHARACTER SET utf8mb4", "varchar(255)", ""),
        ("varchar(20)", "json", ""),
        ("json", "varchar(255)", ""),
        ("varchar(20)", "int", "no"),
        ("int", "varchar(255)", "no"),
        ("bit(3)", "int", "no"),
        ("datetime", "bigint", "no"),
    ] {
        let found = match need(&column("a", now), &column("a", wanted)) {
            Need::Nothing => String::new(),
            Need::Type(to) => to,
            Need::Other => "no".to_owned(),
        };
        assert_eq!(found, to, "{now} for {wanted}");
    }
}

#[test]
fn what_is_widened_needs_nothing_more() {
    let types = [
        "tinyint",
        "smallint",
        "int",
        "bigint",
        "tinyint unsigned",
        "smallint unsigned",
        "int unsigned",
        "bigint unsigned",
        "tinyint(1)",
        "decimal(5,2)",
        "decimal(20,0)",
        "decimal(38,30)",
        "float",
        "double",
        "date",
        "datetime",
        "datetime(3)",
        "timestamp(6)",
    ];
    for now in types {
        for wanted in types {
            let Need::Type(to) = need(&column("a", now), &column("a", wanted)) else { continue };
            for held in [now, wanted] {
                let again = need(&column("a", &to), &column("a", held));
                assert_eq!(again, Need::Nothing, "{now} for {wanted} becomes {to}, which doesn't hold {held}");
            }
        }
    }
}

#[test]
fn a_wish_may_only_widen() {
    let text = column("a", "varchar(100) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin");
    for (to, fine) in [
        ("varchar(500)", true),
        ("VARCHAR(100)", true),
        ("varchar(99)", false),
        ("text", true),
        ("int", false),
        ("varchar(500) NOT NULL", false),
        ("varchar(500); DROP TABLE t", false),
        ("varchar(500)), DROP COLUMN b, ADD COLUMN c varchar(1)", false),
    ] {
        assert_eq!(wished(&text, to), fine, "{to}");
    }
}

#[test]
fn lines_of_show_create_table_are_read_as_they_are() {
    let read = |line: &str| definition(line).map(|(name, rest)| format!("{name}|{rest}"));
    assert_eq!(read("  `a` int NOT NULL,").as_deref(), Some("a|int NOT NULL"));
    assert_eq!(read("  `a``b,` varchar(3) DEFAULT ',',").as_deref(), Some("a`b,|varchar(3) DEFAULT ','"));
    assert_eq!(read("  PRIMARY KEY (`a`)"), None);
    assert_eq!(read("CREATE TABLE `t` ("), None);
}

fn planned(wanted: &[(&str, &str)], actual: &[(&str, &str)], wishes: &Wishes) -> Plan {
    let (changes, conflicts, notes) = changes(&table(wanted), &table(actual), wishes);
    let definitions: Vec<(String, String)> = actual
        .iter()
        .map(|(name, ddl)| ((*name).to_owned(), format!("{ddl} DEFAULT NULL COMMENT 'kept, as it is'")))
        .collect();
    let clauses: Vec<_> =
        changes.into_iter().map(|change| (change.clone(), clause(&change, &definitions, false).unwrap())).collect();
    let classes: Vec<Class> = clauses
        .iter()
        .map(|(change, _)| if matches!(change, Change::Widen(..)) { Class::Blocking } else { Class::Instant })
        .collect();
    let statements = combined("t", clauses, &classes);
    Plan { table: "t".to_owned(), statements, conflicts, notes }
}

#[test]
fn statements_come_in_the_order_in_which_they_are_safe() {
    let wishes = Wishes {
        drop: vec!["fax".to_owned()],
        rename: vec![("mail".to_owned(), "email".to_owned())],
        widen: vec![("name".to_owned(), "varchar(500)".to_owned())],
    };
    let plan = planned(
        &[
            ("id", "bigint"),
            ("email", "varchar(255)"),
            ("age", "bigint"),
            ("name", "varchar(255)"),
            ("phone", "varchar(255)"),
            ("doc", "json"),
        ],
        &[
            ("id", "bigint"),
            ("mail", "varchar(100)"),
            ("age", "int unsigned"),
            ("name", "varchar(90)"),
            ("fax", "varchar(9)"),
            ("odd", "int"),
        ],
        &wishes,
    );
    let text: Vec<String> =
        plan.statements.iter().map(|it| format!("{} {}: {}", it.phase.name(), it.class.name(), it.sql)).collect();
    insta::assert_snapshot!(text.join("\n"), @r"
    before blocking: ALTER TABLE `t` MODIFY COLUMN `age` bigint DEFAULT NULL COMMENT 'kept, as it is', ALGORITHM=COPY
    before instant: ALTER TABLE `t` ADD COLUMN `phone` varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin NULL, ADD COLUMN `doc` json NULL, ALGORITHM=INSTANT
    before blocking: ALTER TABLE `t` MODIFY COLUMN `name` varchar(500) DEFAULT NULL COMMENT 'kept, as it is', ALGORITHM=COPY
    between instant: ALTER TABLE `t` RENAME COLUMN `mail` TO `email`, ALGORITHM=INSTANT
    after instant: ALTER TABLE `t` DROP COLUMN `fax`, ALGORITHM=INSTANT
    ");
    assert_eq!(plan.conflicts, Vec::<String>::new());
    assert_eq!(
        plan.notes,
        ["the models yield no odd: it stays, and is NULL in new rows; `--drop odd` plans to drop it"]
    );
}

#[test]
fn what_would_lose_something_is_never_planned() {
    let wishes = Wishes {
        drop: vec!["name".to_owned()],
        rename: vec![("nothing".to_owned(), "name".to_owned()), ("age".to_owned(), "years".to_owned())],
        widen: vec![("name".to_owned(), "varchar(9)".to_owned()), ("none".to_owned(), "text".to_owned())],
    };
    let plan = planned(
        &[("id", "bigint"), ("name", "varchar(255)"), ("age", "varchar(255)")],
        &[("id", "bigint"), ("name", "varchar(20)"), ("age", "int")],
        &wishes,
    );
    assert_eq!(plan.statements, []);
    insta::assert_snapshot!(plan.conflicts.join("\n"), @r"
    age is int, and the models yield varchar(255): no wider type holds both; add a column beside it, or CAST in latest.sql
    varchar(9) doesn't hold all that name varchar(20) does
    there is no column none to widen
    the models yield no column years that age could become
    the models yield name: it can't be dropped
    ");
}
