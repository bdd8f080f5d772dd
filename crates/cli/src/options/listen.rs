//! Where a server listens.

use clap::Args;

use crate::typed::ListenOn;

/// For verbs that serve. Each tells its default in a `mut_arg`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ListenAt {
    /// Where to listen: HOST:PORT, or :PORT for all addresses.
    #[arg(long, value_name = "ADDRESS", required = false)]
    pub(crate) listen: ListenOn,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::args::Arguments;
    use crate::typed::HostPort;

    fn listens(arguments: &[&str]) -> Result<ListenOn, String> {
        let typed = ["linger"].iter().chain(arguments);
        let all = Arguments::command().try_get_matches_from(typed).map_err(|error| error.to_string())?;
        let mut innermost = &all;
        while let Some((_, inner)) = innermost.subcommand() {
            innermost = inner;
        }
        Ok(innermost.get_one::<ListenOn>("listen").unwrap().clone())
    }

    #[test]
    fn each_verb_has_a_default_of_its_own() {
        let tcp = |host: &str, port| Ok(ListenOn::Tcp(HostPort { host: host.to_owned(), port }));
        assert_eq!(listens(&["server"]), tcp("127.0.0.1", 8080));
        assert_eq!(listens(&["share"]), tcp("::", linger_transfer::PORT));
        assert_eq!(listens(&["fcgi", "serve", "--echo"]), Ok(ListenOn::Inherited));
    }

    #[test]
    fn an_address_means_the_same_for_each_verb() {
        let verbs = [&["server"][..], &["share"], &["fcgi", "serve", "--echo"]];
        for text in ["[::1]:9000", ":9000", "*:0", "unix:/run/a.sock", "inherited"] {
            for verb in verbs {
                assert_eq!(listens(&[verb, &["--listen", text]].concat()), text.parse(), "{verb:?} {text}");
            }
        }
        for verb in verbs {
            let refused = listens(&[verb, &["--listen", "9000"]].concat()).unwrap_err();
            assert!(refused.contains("has no port; write HOST:PORT"), "{verb:?}: {refused}");
        }
    }
}
