//! Script: many rows into few statements.
//!
//! A round trip to the thread of the connection costs more than a small transaction, and a statement per row more than
//! the row (70 to 120 µs of CPU against about 2). So each statement takes many rows by `VALUES`, and a small
//! transaction is one string of statements. Counts of rows are rounded up to powers of two with rows of NULL, which
//! every statement passes over: the strings repeat, and stay prepared.

use sqlx::sqlite::{SqliteArguments, SqliteConnection};
use sqlx::{Arguments, AssertSqlSafe, Encode, Executor, Sqlite, Type};

/// Rows of one statement at most. With eight columns each this is far below SQLite's 32,766 parameters.
const ROWS: usize = 128;
/// A statement with more rows than this, and one after [`MIXED`] statements, does not share its string with others.
const SMALL: usize = 16;
const MIXED: usize = 16;

/// What a statement says around its `VALUES`.
pub(super) struct Form {
    pub before: &'static str,
    pub after: &'static str,
    pub columns: usize,
}

#[derive(Default)]
pub(super) struct Script {
    done: Vec<(String, SqliteArguments)>,
    sql: String,
    arguments: SqliteArguments,
    statements: usize,
    problem: Option<sqlx::Error>,
}

impl Script {
    /// A statement of its own, with its arguments.
    pub(super) fn say(&mut self, sql: &str, bind: impl FnOnce(&mut Binder<'_>)) {
        if self.statements >= MIXED {
            self.cut();
        }
        self.sql.push_str(sql);
        self.sql.push(';');
        self.statements += 1;
        bind(&mut self.binder());
    }

    /// The form for all of these rows, in their order.
    pub(super) fn rows<T>(
        &mut self,
        form: &Form,
        rows: impl IntoIterator<Item = T>,
        mut bind: impl FnMut(&mut Binder<'_>, T),
    ) {
        let mut rows = rows.into_iter();
        loop {
            let chunk: Vec<T> = rows.by_ref().take(ROWS).collect();
            if chunk.is_empty() {
                return;
            }
            let padded = chunk.len().next_power_of_two();
            let nulls = (padded - chunk.len()) * form.columns;
            if padded > SMALL || self.statements >= MIXED {
                self.cut();
            }
            self.sql.push_str(form.before);
            push_values(&mut self.sql, padded, form.columns);
            self.sql.push_str(form.after);
            self.sql.push(';');
            self.statements += 1;
            let mut binder = self.binder();
            for row in chunk {
                bind(&mut binder, row);
            }
            for _ in 0..nulls {
                binder.add(None::<i64>);
            }
            if padded > SMALL {
                self.cut();
            }
        }
    }

    /// One string after the other; stops at the first error, with the transaction still open.
    pub(super) async fn run(
        mut self,
        connection: &mut SqliteConnection,
    ) -> Result<(), sqlx::Error> {
        self.cut();
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        for (sql, arguments) in self.done {
            connection
                .execute(sqlx::query_with(AssertSqlSafe(sql), arguments))
                .await?;
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn statements(mut self) -> Vec<String> {
        self.cut();
        let strings = self.done.iter().flat_map(|(sql, _)| sql.split(';'));
        let statements =
            strings.filter(|sql| !sql.is_empty() && *sql != "COMMIT" && !sql.starts_with("BEGIN"));
        statements.map(str::to_owned).collect()
    }

    fn cut(&mut self) {
        if self.statements > 0 {
            let arguments = std::mem::take(&mut self.arguments);
            self.done.push((std::mem::take(&mut self.sql), arguments));
            self.statements = 0;
        }
    }

    fn binder(&mut self) -> Binder<'_> {
        Binder {
            arguments: &mut self.arguments,
            problem: &mut self.problem,
        }
    }
}

pub(super) struct Binder<'a> {
    arguments: &'a mut SqliteArguments,
    problem: &'a mut Option<sqlx::Error>,
}

impl Binder<'_> {
    pub(super) fn add<'t, T: Encode<'t, Sqlite> + Type<Sqlite>>(&mut self, value: T) -> &mut Self {
        if let Err(error) = self.arguments.add(value) {
            self.problem.get_or_insert(sqlx::Error::Encode(error));
        }
        self
    }
}

fn push_values(sql: &mut String, rows: usize, columns: usize) {
    sql.push_str("(VALUES ");
    for row in 0..rows {
        sql.push_str(if row == 0 { "(" } else { ",(" });
        for column in 0..columns {
            sql.push_str(if column == 0 { "?" } else { ",?" });
        }
        sql.push(')');
    }
    sql.push(')');
}
