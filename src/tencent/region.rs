//! The data centres of the API. An app exists in one of them (document 269/1519). Other data
//! centres answer requests for the app with error 70016 or 70020.

use std::fmt;

use reqwest::Url;

/// A data centre whose host is known. Others are configured with `base_url`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Region {
    China,
    Singapore,
    Seoul,
    Frankfurt,
    SiliconValley,
    Jakarta,
    Tokyo,
    /// Retired: not in the vendor's lists of data centres since 2024.
    Mumbai,
    /// Not in the vendor's documentation; the host is known from third parties.
    SaudiArabia,
}

impl Region {
    /// Every region with its name in the configuration.
    pub const ALL: [(&str, Self); 9] = [
        ("china", Self::China),
        ("singapore", Self::Singapore),
        ("seoul", Self::Seoul),
        ("frankfurt", Self::Frankfurt),
        ("silicon-valley", Self::SiliconValley),
        ("jakarta", Self::Jakarta),
        ("tokyo", Self::Tokyo),
        ("mumbai", Self::Mumbai),
        ("saudi-arabia", Self::SaudiArabia),
    ];

    #[must_use]
    pub fn host(self) -> &'static str {
        match self {
            Self::China => "console.tim.qq.com",
            Self::Singapore => "adminapisgp.im.qcloud.com",
            Self::Seoul => "adminapikr.im.qcloud.com",
            Self::Frankfurt => "adminapiger.im.qcloud.com",
            Self::SiliconValley => "adminapiusa.im.qcloud.com",
            Self::Jakarta => "adminapiidn.im.qcloud.com",
            Self::Tokyo => "adminapijpn.im.qcloud.com",
            Self::Mumbai => "adminapiind.im.qcloud.com",
            Self::SaudiArabia => "adminapiksa.im.qcloud.com",
        }
    }

    /// Returns the URL to which the path of a call is appended.
    ///
    /// # Panics
    /// Never, because a test parses every host.
    #[must_use]
    pub fn base_url(self) -> Url {
        Url::parse(&format!("https://{}", self.host())).expect("the URL of a known host is valid")
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(_, region)| region == self).map_or("unnamed", |(name, _)| name);
        f.write_str(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_region_has_a_unique_name_and_host() {
        let mut hosts: Vec<_> = Region::ALL.iter().map(|(_, region)| region.base_url().to_string()).collect();
        hosts.sort();
        hosts.dedup();
        assert_eq!(hosts.len(), Region::ALL.len());
        for (name, region) in Region::ALL {
            assert_eq!(region.to_string(), name);
        }
    }
}
